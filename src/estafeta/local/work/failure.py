"""The errors with which the platform, and not the handler, ends an invocation, in Lambda's words.

Pure functions; all of AWS's wording for these cases is here. Invariant: the caller gets the payload, CloudWatch shows
the log text, and both name the same request. Sources: Lambda Developer Guide, "Troubleshoot invocation issues", and the
sources of aws-lambda-runtime-interface-emulator for the newer type names.
"""

import json
import signal
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which an invocation, or an init phase, did not end by itself.

    Attributes:
        error_type: Type such as `Runtime.ExitError`.
        payload: JSON document for the caller.
        log: Lines for the log.
        status: Status in the REPORT line: `error` or `timeout`.
    """

    error_type: str
    payload: bytes
    log: str = ""
    status: str = "error"


def error_payload(error_type: str, message: str) -> bytes:
    """Body of an error that the platform reports."""
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


def timed_out(request_id: str, limit_s: float) -> Failure:
    """The process was killed at its time limit."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = f"{now} {request_id} Task timed out after {limit_s:.2f} seconds"
    return Failure("Sandbox.Timedout", error_payload("Sandbox.Timedout", message), f"{message}\n\n", "timeout")


def out_of_memory(request_id: str) -> Failure:
    """The process was killed for its memory."""
    return _ended("Runtime.OutOfMemory", f"RequestId: {request_id} Error: Runtime exited with error: signal: killed")


def exited(request_id: str, status: int) -> Failure:
    """The process ended before it answered.

    Args:
        request_id: Request id of the event.
        status: Exit code, negative for a signal.
    """
    if status == 0:
        reason = "Runtime exited without providing a reason"
    elif status > 0:
        reason = f"Runtime exited with error: exit status {status}"
    elif -status == signal.SIGKILL:
        reason = "Runtime exited with error: signal: killed"
    else:
        reason = f"Runtime exited with error: signal: {signal.Signals(-status).name}"
    return _ended("Runtime.ExitError", f"RequestId: {request_id} Error: {reason}")


def _ended(error_type: str, message: str) -> Failure:
    return Failure(error_type, error_payload(error_type, message), f"{message}\n{error_type}\n")
