"""Everything in one process: the same handlers, the same files, the same bits; for the debugger and as the reference.

Events wait in a queue and are carried out one after the other, by whoever called. There are no limits, no retries and
no second process, so a breakpoint in the model works, and an exception arrives where it can be seen.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from estafeta.cost.cost import LOG_BYTES, MB_PER_GB, Usage
from estafeta.cost.meter import Meter
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import FunctionSettings, MergeEvent, Role, WorkerEvent
from estafeta.store.files import OsFiles
from estafeta.store.store import Store

NO_LIMIT_S = 1e9


class InlineInvoker:
    """`Invoker` that carries out the events itself.

    Args:
        root: The store's directory. It must exist. File operations are counted.
        memory_mb: By role, the memory size that the duration is billed with in `gb_seconds`.

    Attributes:
        usage: By run, what its invocations add up to; their duration is taken for the billed one, and that they would
            log no more than every invocation does.
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

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """See `Invoker.call`."""
        return self._carry_out(role, event)

    def step(self) -> bool:
        """Carry out the oldest event that waits; return whether there was one."""
        if not self._queue:
            return False
        self._carry_out(*self._queue.popleft())
        return True

    def _carry_out(self, role: Role, event: Mapping[str, Any]) -> Any:
        invocation = Invocation(
            self._store,
            self._connect,
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

    def _connect(self, _functions: Mapping[Role, FunctionSettings]) -> InlineInvoker:
        return self
