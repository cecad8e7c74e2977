"""What the code of a function has at hand in one invocation, on Lambda, on the local service, or in one process."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from estafeta.cost.meter import Meter
from estafeta.protocol.snapshot import Action, Finish, Merge, Prepare, Reside, Work
from estafeta.protocol.spec import FunctionSettings, MergeEvent, Role, RunSpec, WorkerEvent
from estafeta.protocol.warm import Warm
from estafeta.store.store import Store


class Invoker(Protocol):
    """Starts a function of the run."""

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """Queue one event for a function and return at once; it is delivered at least once, in any order."""

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """Invoke a function, wait, and return what it returned.

        Raises:
            FunctionError: The function raised or was killed.
        """


Connect = Callable[[Mapping[Role, FunctionSettings]], Invoker]
PROCESS = Warm()
"""Memory of this process: on Lambda, a process is an execution environment."""


@dataclass(frozen=True)
class Invocation:
    """One invocation of a function.

    Attributes:
        connect: Makes an invoker for a run's functions.
        token: The request id: the same for all attempts at one event. Publications carry it, so that a retry
            recognises what an earlier attempt did.
        remaining_s: Seconds until the function is killed.
        quiet: Write no notes to standard output: there is a user, not a log, at its other end.
        is_alone: No other function is at work before this one ends, so it would wait for them in vain.
        warm: Memory of the execution environment, from one invocation to the next. Losing it costs time, never bits.
        init_s: How long starting the environment took, if it was started for this invocation. It is billed too.
    """

    store: Store
    connect: Connect
    token: str
    remaining_s: Callable[[], float]
    function: str = ""
    log_group: str = ""
    log_stream: str = ""
    quiet: bool = False
    is_alone: bool = False
    warm: Warm = field(default_factory=lambda: PROCESS)
    meter: Meter = field(default_factory=Meter)
    init_s: float = 0.0

    def note(self, run: str, **facts: Any) -> None:
        """Write one line to the function's log: it ties the request to its run, and says what was done."""
        if not self.quiet:
            print(json.dumps({"run": run, "request_id": self.token, **facts}))  # noqa: T201

    def note_end(self, run: str, done: str) -> None:
        """Write the last line: what was done, and which file operations it took (`logbook.py` adds them up)."""
        self.note(run, done=done, traffic=asdict(self.meter.traffic()))


def dispatch(actions: tuple[Action, ...], spec: RunSpec, invocation: Invocation, generation: int = 0) -> None:
    """Invoke the functions that carry out the given actions. Nothing waits for them."""
    invoker = invocation.connect(spec.functions)
    for action in actions:
        match action:
            case Prepare():
                invoker.send("worker", WorkerEvent(run=spec.run, task="prepare").model_dump())
            case Work(round_, rank, leg):
                event = WorkerEvent(run=spec.run, task=round_.phase, version=round_.version, rank=rank, leg=leg)
                invoker.send("worker", event.model_dump())
            case Reside():
                now = invocation.store.clock.time()
                event = WorkerEvent(run=spec.run, task="reside", sent_at=now, **asdict(action))
                invoker.send("worker", event.model_dump())
            case Merge(round_):
                event_ = MergeEvent(run=spec.run, round=round_.name, generation=generation)
                invoker.send("merge", event_.model_dump())
            case Finish():
                invoker.send("merge", MergeEvent(run=spec.run, generation=generation).model_dump())
