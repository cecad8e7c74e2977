"""Everything in one process: the same handlers, the same files, the same bits; for the debugger and as the reference.

Events wait in a queue, and the process that called carries them out one after the other. An inline run has no limits,
no retries and no second process, so a breakpoint in the model works, and an exception reaches the terminal.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estafeta.client.backend import Functions, Settings, unwrap
from estafeta.client.logbook import Entry
from estafeta.cost.cost import LOG_BYTES, MB_PER_GB, Basis, Usage
from estafeta.cost.meter import Meter
from estafeta.errors import UsageError
from estafeta.job.job import On
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import MergeEvent, Role, WorkerEvent
from estafeta.protocol.verbs import ControlEvent
from estafeta.store.files import OsFiles
from estafeta.store.store import Store

if TYPE_CHECKING:
    from estafeta.aws.bucket import Bucket

NO_LIMIT_S = 1e9
"""Seconds that an invocation has left, always."""


class InlineInvoker:
    """`Invoker` that carries out the events itself, on the store in the existing directory `root`.

    Attributes:
        usage: Sum of the invocations by run. Their duration counts as billed, and each logs as little as possible.
    """

    def __init__(self, root: str, memory_mb: Mapping[Role, int]) -> None:
        self.usage: dict[str, Usage] = {}
        self._meter = Meter()
        self._store = Store(root, OsFiles(self._meter))
        self._memory_mb = memory_mb
        self._queue: deque[tuple[Role, Mapping[str, Any]]] = deque()

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """See `Invoker.send`. The event is carried out by the next `step`."""
        self._queue.append((role, event))

    def step(self) -> bool:
        """Carry out the oldest event that waits; return whether there was one."""
        if not self._queue:
            return False
        self.call(*self._queue.popleft())
        return True

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """See `Invoker.call`."""
        invocation = Invocation(
            self._store,
            lambda _functions: self,
            secrets.token_hex(16),
            lambda: NO_LIMIT_S,
            role,
            quiet=True,
            is_alone=True,
            meter=self._meter,
        )
        self._meter.reset()
        started = time.perf_counter()
        try:
            match role:
                case "worker":
                    from estafeta.functions.worker import work

                    return work(WorkerEvent.model_validate(event), invocation)
                case "merge":
                    from estafeta.functions.merge import merge

                    return merge(MergeEvent.model_validate(event), invocation)
                case "control":
                    from estafeta.functions.control import control

                    return control(event, invocation)
        finally:
            self._account(role, event, time.perf_counter() - started)

    def _account(self, role: Role, event: Mapping[str, Any], seconds: float) -> None:
        run = event["spec"]["run"] if "spec" in event else event.get("run", "")
        before = self.usage.get(run, Usage({}, 0, 0, 0.0))
        self.usage[run] = replace(
            before,
            invocations={**before.invocations, role: before.invocations.get(role, 0) + 1},
            legs=before.legs + (event.get("task") in ("train", "valid")),
            billed_gb_seconds=before.billed_gb_seconds + seconds * self._memory_mb[role] / MB_PER_GB,
            traffic=before.traffic + self._meter.traffic(),
            log_bytes=before.log_bytes + LOG_BYTES,
        )


class InlineBackend:
    """`Backend` in this process, without limits: for the debugger, and as the reference for bits.

    The number of threads follows from the memory of the `functions`, which have the template's settings.
    """

    on: On = "inline"
    bucket: Bucket | None = None

    def __init__(self, root: Path, functions: Functions) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.functions = functions
        self.basis = Basis()
        self._invoker = InlineInvoker(str(root), {role: f.memory_mb for role, f in functions.items()})

    def call(self, verb: ControlEvent) -> Any:
        """See `Backend.call`."""
        return unwrap(self._invoker.call("control", verb.model_dump(mode="json")))

    def with_settings(self, settings: Settings, variables: Mapping[str, str] | None = None) -> Functions:
        """See `Backend.with_settings`. Time limits mean nothing here; the memory gives the number of threads."""
        return {role: f.model_copy(update=dict(settings.get(role, {}))) for role, f in self.functions.items()}

    def advance(self, seconds: float) -> None:
        """See `Backend.advance`: carry out events for about that long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._invoker.step():
            pass

    def log(self, run: str, functions: Functions, since_s: float) -> list[Entry]:
        """See `Backend.log`: an inline run has none."""
        raise UsageError("An inline run writes no log", hint="its functions print to the terminal")

    def usage(self, run: str, functions: Functions, since_s: float, *, ended: bool) -> Usage:
        """See `Backend.usage`: this process has counted it."""
        return self._invoker.usage[run]

    def faults(self, run: str, functions: Functions, since_s: float) -> dict[str, int]:
        """See `Backend.faults`: nothing injects any."""
        return {}
