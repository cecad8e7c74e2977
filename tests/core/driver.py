"""Drives a run event by event, as Lambda would, but in an order and with accidents that a test can choose and repeat.

    relay = Relay(tmp_path, spec_of("plain", workers=4), arrivals=shuffled(seed=1))
    assert relay.run() == undisturbed("plain", 4)

`arrivals` says how often each event is delivered, and when (`events.py`). Accidents come in by `files`, which stand
between the store and the disk (`faults.py`). An invocation that raises is retried with its request id, and given up to
`control` after the last attempt, as Lambda does it.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from estafeta.client.inline import NO_LIMIT_S
from estafeta.functions.control import control
from estafeta.functions.merge import merge
from estafeta.functions.worker import work
from estafeta.job.stopping import EpochRecord
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.listing import round_of
from estafeta.protocol.message import form_of, glance
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES
from estafeta.protocol.spec import MergeEvent, Outcome, Role, RunSpec, WorkerEvent
from estafeta.store.files import Files, Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array, TensorFile

from .environment import forget
from .events import Arrivals, Event, failure_record, in_order
from .faults import Killed
from .specs import CODE, spec_of

ATTEMPTS = 3
"""An event's first delivery and Lambda's two retries."""

MOST_DELIVERIES = 5_000
"""No run of a test needs that many; one that does would never end."""


@dataclass(frozen=True)
class Result:
    """All that must not depend on what happened on the way.

    Attributes:
        state: End of the run.
        version: The version that it ended with.
        best_version: The best.
        weights_sha256: As the outcome says.
        files: SHA-256 of the tensors' bytes in each exported file.
        epochs: Content of the records, without their makers and times.
    """

    state: str
    version: int | None
    best_version: int | None
    weights_sha256: str | None
    files: Mapping[str, str]
    epochs: Sequence[Mapping[str, Any]]


class Relay:
    """One run, and what Lambda does for it.

    Args:
        root: Directory of the store.
        spec: Spec of the run.
        code: Text of the user's modules by path.
        files: File-system calls of the functions.
        store: Files through which the test itself looks at the run; a plain directory by default.
        arrivals: Rule for the order and number of deliveries of events.
        remaining_s: Remaining time that a function is told.
        attempts: Number of attempts at an event.
        cold: Let each invocation find nothing that an earlier one has left in memory. The first never does.

    Attributes:
        delivered: All deliveries so far.
        errors: Errors that invocations raised.
        on_delivery: Called before each.
        on_error: Called after each that raised.
    """

    def __init__(
        self,
        root: Path,
        spec: RunSpec,
        code: Mapping[str, str] = CODE,
        *,
        files: Files | None = None,
        store: Store | None = None,
        arrivals: Arrivals = in_order,
        remaining_s: Callable[[], float] = lambda: NO_LIMIT_S,
        attempts: int = ATTEMPTS,
        cold: bool = False,
    ) -> None:
        self.spec = spec
        self.layout = RunLayout(spec.run)
        self.store = store or Store(root)
        self.delivered: list[Event] = []
        self.errors: list[BaseException] = []
        self.on_delivery: Callable[[Event], object] = lambda event: None
        self.on_error: Callable[[Event], object] = lambda event: None
        self._seen_by_functions = Store(root, files)
        self._code = code
        self._arrivals = arrivals
        self._remaining_s = remaining_s
        self._attempts = attempts
        self._cold = cold
        self._queue: list[tuple[int, int, Event]] = []
        self._requests = itertools.count()
        forget()

    # The client's side

    @property
    def folder(self) -> RunFolder:
        """The run's folder, for a reader that has read nothing yet but the spec."""
        return RunFolder(self.store, self.spec.run, self.spec)

    def run(self) -> Result:
        """Start the run, carry out all events, and return how it ended."""
        self.start()
        self.drain()
        return self.result()

    def run_to_failure(self) -> None:
        """The same for a run that is to fail."""
        self.start()
        self.drain()
        assert self.outcome().state == "failed"

    def start(self) -> None:
        """Publish the run and queue its first event."""
        answer = self.call("control", {"verb": "start", "spec": self.spec.model_dump(), "code": dict(self._code)})
        assert answer == {"run": self.spec.run}

    def control(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Ask something of the run; its answer has passed through JSON."""
        answer: dict[str, Any] = self.call("control", {"verb": verb, "run": self.spec.run, **fields})
        return answer

    # Lambda's side: `Invoker`, and the queue behind it

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """See `Invoker.send`."""
        self._enqueue(Event(role, json.loads(json.dumps(event)), self._token()))

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """See `Invoker.call`."""
        return json.loads(json.dumps(self._carry_out(Event(role, json.loads(json.dumps(event)), self._token()))))

    def step(self) -> bool:
        """Deliver the event whose turn it is; return whether there was one."""
        if not self._queue:
            return False
        _, _, event = heapq.heappop(self._queue)
        self.delivered.append(event)
        assert len(self.delivered) < MOST_DELIVERIES, (
            f"the run does not end: {Counter(map(str, self.delivered[-100:]))}"
        )
        self.on_delivery(event)
        if self._cold:
            forget()
        try:
            self._carry_out(event)
        except (Exception, Killed) as error:
            self.errors.append(error)
            self.on_error(event)
            self._retry(event, error)
        return True

    def redeliver(self, event: Event) -> Any:
        """Carry out an event once more, out of turn; return what the function returned."""
        return self._carry_out(event)

    def queued(self) -> list[Event]:
        """The events that wait, the next first."""
        return [event for _, _, event in sorted(self._queue, key=lambda entry: entry[:2])]

    def drop(self) -> None:
        """Lose the event whose turn it is."""
        if self._queue:
            heapq.heappop(self._queue)

    def lose_last(self) -> None:
        """Lose the event that was sent last."""
        self._queue.remove(max(self._queue, key=lambda entry: entry[1]))
        heapq.heapify(self._queue)

    def drain(self) -> None:
        """Deliver until nothing is queued."""
        while self.step():
            pass

    def drain_until(self, condition: Callable[[], bool]) -> None:
        """Deliver until something is the case."""
        while not condition():
            assert self.step(), "the run has ended before that"

    def _enqueue(self, event: Event) -> None:
        for later in self._arrivals(event):
            heapq.heappush(self._queue, (len(self.delivered) + later, next(self._requests), event))

    def _retry(self, event: Event, error: BaseException) -> None:
        if event.attempt < self._attempts:
            again = replace(event, attempt=event.attempt + 1)
            heapq.heappush(self._queue, (len(self.delivered), next(self._requests), again))
        elif event.role != "control":
            self.send("control", failure_record(event, type(error).__name__, str(error)))

    def _carry_out(self, event: Event) -> Any:
        invocation = Invocation(
            self._seen_by_functions,
            lambda functions: self,
            event.token,
            self._remaining_s,
            event.role,
            quiet=True,
            is_alone=True,
        )
        return perform(event, invocation)

    def _token(self) -> str:
        return f"request-{next(self._requests):08d}"

    # The state of the run

    def outcome(self) -> Outcome:
        """How the run ended. There is one outcome only."""
        top = self.store.list(self.layout.root)
        (state,) = (state for state in OUTCOMES if f"{state}.json" in top)
        return Outcome.model_validate_json(self.store.read(self.layout.outcome(state)))

    def epochs(self) -> list[EpochRecord]:
        """The records of the epochs."""
        names = sorted(self.store.list(self.layout.epochs))
        return [EpochRecord.model_validate_json(self.store.read(f"{self.layout.epochs}/{name}")) for name in names]

    def result(self) -> Result:
        """The end of the run, with its bits."""
        self.assert_whole()
        outcome = self.outcome()
        paths = [
            f"{self.layout.export(which)}/{name}"
            for which in ("best", "final")
            for name in sorted(self.store.list(self.layout.export(which)))
        ]
        records = [record.model_dump(exclude={"token", "ended_at", "spent_usd"}) for record in self.epochs()]
        return Result(
            outcome.state,
            outcome.version,
            outcome.best_version,
            outcome.weights_sha256,
            {path: self._digest(path) for path in paths},
            records,
        )

    def assert_exports_agree(self) -> None:
        """The exported files are of the versions that the outcome names, and have its digest."""
        outcome = self.outcome()
        for which, version in (("best", outcome.best_version), ("final", outcome.version)):
            folder = self.layout.export(which)
            names = sorted(self.store.list(folder))
            assert names == ["model.safetensors", "optimizer.safetensors", "state.json"]
            state = json.loads(self.store.read(f"{folder}/state.json"))
            assert state["version"] == version
            for name in names[:2]:
                metadata = self.store.reading(f"{folder}/{name}", lambda reader: TensorFile(reader).metadata)
                assert metadata["version"] == str(version)
            if which == "final":
                assert state["weights_sha256"] == outcome.weights_sha256

    def deliveries(self, role: Role) -> int:
        """The number of invocations of a function."""
        return sum(event.role == role for event in self.delivered)

    def assert_whole(self) -> None:
        """Every file that others can see is complete."""
        for path in files_below(self.store, self.layout.root):
            if path.endswith(".safetensors"):
                self.store.reading(path, read_tensors)
                continue
            content = self.store.read(path)
            if "exchange" in path.split("/"):
                self.store.reading(path, glance)
            elif path.split("/")[-2] in ("contributions", "partial"):
                self._assert_message_is_whole(path)
            elif path.endswith(".py"):
                shipped = self.spec.origin or self.spec  # a fork has its origin's code
                assert content.endswith(f"# {shipped.token}\n".encode()), path
            elif not path.endswith(("/STOP", "/reserve")):
                json.loads(content)

    def _assert_message_is_whole(self, path: str) -> None:
        _, folder, name = path.rsplit("/", 2)
        plan, round_ = self.folder.plan, round_of(name)
        assert round_ is not None
        form = form_of(plan, round_.phase, unfinished=folder == "partial")

        def read(reader: Reader) -> None:
            head, vector = form.read(reader)
            for _ in form.stream(reader, head, vector, np.empty(plan.size, np.float32)):
                pass  # the digest is checked after the last chunk

        self.store.reading(path, read)

    def _digest(self, path: str) -> str:
        content = self.store.read(path)
        if path.endswith(".json"):
            facts = json.loads(content)
            content = json.dumps({key: value for key, value in facts.items() if key != "token"}).encode()
        else:
            content = content[8 + int.from_bytes(content[:8], "little") :]
        return hashlib.sha256(content).hexdigest()


def files_below(store: Store, directory: str) -> list[str]:
    """Paths of all published files in a directory and those below it."""
    paths: list[str] = []
    for name in sorted(store.list(directory)):
        try:
            paths += files_below(store, f"{directory}/{name}")
        except NotADirectoryError:
            paths.append(f"{directory}/{name}")
    return paths


def read_tensors(reader: Reader) -> dict[str, Array]:
    """All tensors of a file, each compared with its digest."""
    file = TensorFile(reader)
    return {name: file.read(name) for name in file.entries}


def perform(event: Event, invocation: Invocation) -> Any:
    """Have the function that an event is for carry it out."""
    match event.role:
        case "worker":
            return work(WorkerEvent.model_validate(event.payload), invocation)
        case "merge":
            return merge(MergeEvent.model_validate(event.payload), invocation)
        case "control":
            return control(event.payload, invocation)


@cache
def undisturbed(name: str, workers: int = 2) -> Result:
    """The result of a job to which nothing happens."""
    return undisturbed_of(spec_of(name, workers=workers))


def undisturbed_of(spec: RunSpec) -> Result:
    """The same for a spec."""
    with TemporaryDirectory() as root:
        return Relay(Path(root), spec).run()
