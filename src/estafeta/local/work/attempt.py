"""One event inside an execution environment, from its START line to its REPORT line.

It knows the log and the Runtime API's headers, nothing of processes. Invariant: `end` writes the report before it hands
over the outcome, so a caller that has its answer finds the log complete.
"""

import random
import time

from estafeta.local.api.http import Response
from estafeta.local.logs import lines
from estafeta.local.logs.streams import LogStream
from estafeta.local.work.invocation import Invocation, Outcome


class Attempt:
    """One delivery in progress.

    Attributes:
        id: Id of the attempt, unlike the request id new for each.
    """

    def __init__(self, invocation: Invocation, stream: LogStream, init_ms: float | None) -> None:
        """Open the invocation in the log and start its clock.

        Args:
            invocation: The invocation.
            stream: Log of the environment.
            init_ms: Milliseconds of the init phase, if this is the first event after it.
        """
        self.invocation = invocation
        self.id = f"{random.getrandbits(128):032x}"
        self._stream = stream
        self._init_ms = init_ms
        self._log_offset = stream.write(lines.start_line(invocation.request_id, invocation.function.version))
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count the time from now on: the process that had to be started for this event is there."""
        self._began_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Time since the clock was started."""
        return time.monotonic() - self._began_s

    @property
    def remaining_s(self) -> float:
        """Time left until the function's limit."""
        return self.invocation.function.config.timeout_s - self.elapsed_s

    def event(self) -> Response:
        """The event, as the runtime client receives it."""
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": self.invocation.request_id,
            "Lambda-Runtime-Invocation-Id": self.id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.remaining_s) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.invocation.arn,
            "Lambda-Runtime-Trace-Id": self.invocation.trace,
        }
        if self.invocation.client_context:
            headers["Lambda-Runtime-Client-Context"] = self.invocation.client_context
        return Response(200, self.invocation.payload, headers)

    def log(self, text: str) -> None:
        """Append a line of the platform's."""
        self._stream.write(text)

    def end(self, payload: bytes, *, failed: bool, peak_mb: float, status: str = "", error_type: str = "") -> None:
        """Close the invocation in the log and hand over its outcome.

        Args:
            payload: JSON document of the answer or of the error.
            failed: Whether it is an error.
            peak_mb: Largest memory of the process.
            status: `timeout`, `error` or nothing, for the report.
            error_type: Type of the error, for the report.
        """
        config = self.invocation.function.config
        duration_s = min(self.elapsed_s, config.timeout_s)
        self._stream.write(
            lines.end_lines(
                self.invocation.request_id,
                duration_ms=duration_s * 1000,
                init_ms=self._init_ms,
                memory_mb=config.memory_mb,
                peak_mb=peak_mb,
                status=status,
                error_type=error_type,
            )
        )
        tail = self._stream.tail(self._log_offset) if self.invocation.wants_tail else b""
        self.invocation.finish(Outcome(payload, failed, tail))
