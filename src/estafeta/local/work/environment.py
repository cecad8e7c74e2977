"""One execution environment: the life of a runtime process, and one event at a time in it.

    LAUNCHING ──next──▶ IDLE (frozen) ──invoke──▶ BUSY ──answer──▶ FINISHING ──next──▶ IDLE
        │                                          │                   │
        └───────────── the process ends ───────────┴───────────────────┘──▶ DOWN ──invoke──▶ BUSY, with a new process

The next invocation replaces a process that has failed, on its own time ("suppressed init"); the new process finds the
same temporary folder. An environment knows processes and the log, nothing of queues or of concurrency: it tells its
owner whenever it can take an event. Invariant: at most one event is in the environment, and whatever happens to the
process, that event gets exactly one outcome. Source: Lambda Developer Guide, "Understanding the Lambda execution
environment lifecycle".
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from estafeta.errors import EnvironmentProblem
from estafeta.local.api.http import HttpProtocol, Reply, Response
from estafeta.local.api.runtime import RuntimeApi
from estafeta.local.duty_cycle import DutyCycle
from estafeta.local.fault_log import FaultLog
from estafeta.local.faults import Injectors
from estafeta.local.logs import lines
from estafeta.local.logs.streams import LogStream
from estafeta.local.work import failure as failures
from estafeta.local.work.attempt import Attempt
from estafeta.local.work.failure import Failure, error_payload
from estafeta.local.work.functions import FunctionVersion
from estafeta.local.work.invocation import RESPONSE_LIMIT_BYTES, Invocation
from estafeta.local.work.nursery import Nursery
from estafeta.local.work.process import Process, fork
from estafeta.local.work.variables import Surroundings, variables

LOOPBACK = "127.0.0.1"
MEMORY_LOOK_S = 0.05  # seconds between two looks: a handler may grow by a GB per second
Phase = Enum("Phase", "LAUNCHING IDLE BUSY FINISHING DOWN CLOSED")


@dataclass(frozen=True, slots=True)
class Host:
    """The parts of the service that environments need.

    Attributes:
        nursery: Source of processes.
        surroundings: Settings that functions see.
        folder: Folder for the environments' temporary folders.
        logs: Root folder of the log streams.
        init_limit_s: Seconds after which an init phase is stopped and repeated inside the first invocation.
        faults: Injectors, which decide on faults.
        fault_log: Log of the injected faults.
    """

    nursery: Nursery
    surroundings: Surroundings
    folder: Path
    logs: Path
    init_limit_s: float
    faults: Injectors
    fault_log: FaultLog


class Environment:
    """One execution environment of one function version.

    Attributes:
        function: Function version that it runs.
        phase: Phase of its life.
        idle_since: Event loop time at which it last became able to take an event.
        gone: Event that is set when it is closed and its process has ended.
    """

    def __init__(self, function: FunctionVersion, host: Host, available: Callable[[Environment], None]) -> None:
        """Start launching.

        Args:
            function: Function version to run.
            host: The service.
            available: Function that is called whenever the environment can take an event again.
        """
        self.function = function
        self.phase = Phase.LAUNCHING
        self.idle_since = 0.0
        self.gone = asyncio.Event()
        self._host = host
        self._available = available
        self._loop = asyncio.get_running_loop()
        self._folder = host.folder / uuid.uuid4().hex
        self._temporary = self._folder / "tmp"
        self._temporary.mkdir(parents=True)
        self._stream = LogStream(host.logs, function.config.log_group, function.version)
        self._server: asyncio.Server | None = None
        self._process: Process | None = None
        self._attempt: Attempt | None = None
        self._next: Reply | None = None
        self._init_ms: float | None = None
        self._failure: Failure | None = None
        self._began_s = 0.0
        self._deadline_s = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._sabotage: asyncio.TimerHandle | None = None
        self._injector = host.faults.of(function.config.environment)
        self._slow = self._injector.slow_environment()
        if self._slow:
            host.fault_log.write(function, "slow")
        self._duty_cycle: DutyCycle | None = None
        self._launching = self._loop.create_task(self._launch())

    def invoke(self, invocation: Invocation) -> None:
        """Run an event; the phase must be IDLE or DOWN."""
        down = self.phase is Phase.DOWN
        self.phase = Phase.BUSY
        self._attempt = Attempt(invocation, self._stream, self._init_ms)
        self._init_ms = None
        if down:
            self._launching = self._loop.create_task(self._launch())
        else:
            self._deliver(self._attempt)

    def close(self) -> None:
        """End the environment for good; an event in it ends as if its process had crashed."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSED
            if self._process:
                self._process.kill()
            elif self._launching.done():
                self._dismantle()

    @property
    def _request_id(self) -> str:
        return self._attempt.invocation.request_id if self._attempt else ""

    # `RuntimeApi` calls these for the runtime client.

    def on_next(self, reply: Reply) -> None:
        """The runtime is ready for an event.

        On a busy machine a new process asks before its zygote has reported it. Then `_launch` calls `_ready`.
        """
        self._next = reply
        if self._process:
            self._ready()

    def _ready(self) -> None:
        self._stop_watching()
        starting = self.phase is Phase.LAUNCHING or self._attempt is not None
        if self.phase is Phase.CLOSED or (starting and self._over_memory()):
            return
        if self._attempt is not None:  # the process was started for this event
            self._deliver(self._attempt)
            return
        if starting:
            self._init_ms = (self._loop.time() - self._began_s) * 1000
        self._become(Phase.IDLE)
        if self.phase is Phase.IDLE and self._process:
            self._process.freeze()

    def on_answer(self, reply: Reply, request_id: str, attempt_id: str, body: bytes, *, failed: bool) -> None:
        """The handler has returned or raised.

        The runtime client gets its reply first, and prepares for its next event while this one is closed.
        """
        attempt = self._attempt
        if attempt is None or attempt.invocation.request_id != request_id or attempt_id not in ("", attempt.id):
            reply(Response(400, error_payload("InvalidRequestID", "This invocation is not in progress.")))
            return
        if len(body) > RESPONSE_LIMIT_BYTES:
            text = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_LIMIT_BYTES} bytes)."
            reply(Response(413, error_payload("RequestEntityTooLarge", text)))
            body, failed = error_payload("Function.ResponseSizeTooLarge", text), True
        else:
            reply(Response(202))
        if not self._over_memory():
            self._end(body, failed=failed)

    def on_init_error(self, error_type: str, body: bytes) -> None:
        """The runtime client cannot load the handler's module; its process ends by itself."""
        self._failure = Failure(error_type, body)

    # The life of the process.

    async def _launch(self) -> None:
        self._failure = None
        try:
            self._process = await fork(
                self._host.nursery.zygote(self.function.config.preload), await self._order(), self._exited
            )
        except (EnvironmentProblem, OSError) as problem:
            self._failure = Failure("Runtime.ExitError", error_payload("Runtime.ExitError", str(problem)))
            self._exited(-signal.SIGKILL)
            return
        self._began_s = self._loop.time()
        if self.phase is Phase.CLOSED:
            self._process.kill()
        elif self._attempt:
            self._attempt.restart_clock()
            self._watch(self._attempt.remaining_s)
        else:
            self._watch(self._host.init_limit_s)
        if self._next:
            self._ready()

    async def _order(self) -> dict[str, object]:
        if self._server is None:
            listener = socket.create_server((LOOPBACK, 0))
            api = RuntimeApi(self)
            self._server = await self._loop.create_server(lambda: HttpProtocol(api), sock=listener)
        host, port = self._server.sockets[0].getsockname()
        return {
            "handler": self.function.config.handler,
            "threads": self.function.config.threads,
            "task_root": str(self._host.surroundings.task_root),
            "log": str(self._stream.path),
            "environment": variables(
                self.function,
                self._host.surroundings,
                runtime_api=f"{host}:{port}",
                log_stream=self._stream.name,
                temporary=self._temporary,
            ),
        }

    def _exited(self, status: int) -> None:
        self._stop_watching()
        self._process = None
        self._next = None
        failure = self._failure or failures.exited(self._request_id, status)
        if self.phase is Phase.LAUNCHING:
            elapsed_ms = (self._loop.time() - self._began_s) * 1000
            self._stream.write(lines.init_line(elapsed_ms, failure.status, failure.error_type))
        self._fail(failure)
        if self.phase is Phase.CLOSED:
            self._dismantle()
        else:
            self._become(Phase.DOWN)

    def _timed_out(self) -> None:
        limit_s = self.function.config.timeout_s if self._attempt else self._host.init_limit_s
        self._fail(failures.timed_out(self._request_id, limit_s))
        self._kill()

    def _over_memory(self) -> bool:
        """Look at the memory; over the limit, kill the process, which fails its event."""
        if self._process is None or self._process.look_at_memory() <= self.function.config.memory_mb:
            return False
        self._fail(failures.out_of_memory(self._request_id))
        self._kill()
        return True

    def _fail(self, failure: Failure) -> None:
        """Keep the reason why the process ends, and end the event in it, if there is one."""
        self._failure = failure
        if self._attempt:
            self._attempt.log(failure.log)
            self._end(failure.payload, failed=True, status=failure.status, error_type=failure.error_type)

    # Small steps.

    def _deliver(self, attempt: Attempt) -> None:
        reply, self._next = self._next, None
        self._watch(attempt.remaining_s)
        if reply and self._process:
            reply(attempt.event())
            self._process.thaw()
            self._harm(self._process)

    def _harm(self, process: Process) -> None:
        """Carry out the faults that the injector has decided for this event."""
        after_s = self._injector.kill_after_s(self.function.config.name)
        if after_s is not None:
            self._sabotage = self._loop.call_later(after_s, self._strike, process, self._request_id)
        if self._slow:
            self._duty_cycle = DutyCycle(process)

    def _strike(self, process: Process, request_id: str) -> None:
        self._host.fault_log.write(self.function, "kill", request_id)
        process.kill()

    def _end(self, payload: bytes, *, failed: bool, status: str = "", error_type: str = "") -> None:
        attempt, self._attempt = self._attempt, None
        if self.phase is Phase.BUSY:
            self.phase = Phase.FINISHING
        if self._sabotage:
            self._sabotage.cancel()
        if self._duty_cycle:
            self._duty_cycle.stop()
        if attempt:
            peak_mb = self._process.peak_memory_mb if self._process else 0.0
            self._injector.lasted(self.function.config.name, attempt.elapsed_s)
            attempt.end(payload, failed=failed, peak_mb=peak_mb, status=status, error_type=error_type)

    def _become(self, phase: Phase) -> None:
        self.phase = phase
        self.idle_since = self._loop.time()
        self._available(self)

    def _watch(self, limit_s: float) -> None:
        self._stop_watching()
        self._deadline_s = self._loop.time() + limit_s
        self._look = self._loop.call_later(min(limit_s, MEMORY_LOOK_S), self._look_again)

    def _look_again(self) -> None:
        remaining_s = self._deadline_s - self._loop.time()
        if remaining_s <= 0:
            self._timed_out()
        elif not self._over_memory():
            self._look = self._loop.call_later(min(remaining_s, MEMORY_LOOK_S), self._look_again)

    def _stop_watching(self) -> None:
        if self._look:
            self._look.cancel()

    def _kill(self) -> None:
        self._stop_watching()
        if self._process:
            self._process.kill()

    def _dismantle(self) -> None:
        if self._server:
            self._server.close()
        self._stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.gone.set()
