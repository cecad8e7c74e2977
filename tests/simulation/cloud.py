"""Lambda and EFS of a simulated run: a stage on which everything can go wrong that a world has.

Time is virtual. Each environment sees the store through an NFS client of its own (or all share one machine's view).
At every call to the store and every invocation, another environment may go first, and a fault may come in. The world's
seed decides which.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from conformance.faults import RESENT
from conformance.interposed import Interposed
from conformance.nfs_client import NfsClientFiles
from conformance.nfs_server import File, NfsServer
from core.driver import ATTEMPTS
from core.events import Event, failure_record
from core.faults import Killed, half_of
from core.stage import Actor, Environment, Stage, StageClock, StageWatch
from estafeta import waiting
from estafeta.protocol.spec import Role
from estafeta.store.files import Buffer, Files, Reader, Watch, Writer
from estafeta.store.store import Store

from .client import Client, clean, follow, tend
from .fence import Fence
from .journal import Journal
from .ledger import Ledger, Violation
from .stand_ins import WORDS
from .world import SLOWNESS, World

T = TypeVar("T")

ROOT = "/efs"
INVOKE_S = 0.02
"""Seconds that a function needs to send an event."""

QUEUE_S = 0.05
"""Seconds that an event waits for its delivery, at most, if nothing delays it."""

RETRY_S = 60.0
"""Until Lambda's first retry; the second comes after twice that."""

LATE_S = 120.0
FAILOVER_S = 20.0
MOST_CALLS_OF_A_VICTIM = 120
"""A victim is killed at one of its first so many calls."""

MOST_TURNS = 200_000

JUST_RELIEVED_S = 10.0
"""Whose predecessor left so shortly before the end of its own time may be killed at it."""

TORN = frozenset({"create", "append"})
"""Calls of which half may have been done when their maker is killed."""


class Refused(ConnectionError):
    """The Lambda API has answered with an error, or not at all."""


@dataclass(eq=False)
class Machine(Environment):
    """An execution environment of a world: a machine of its own, or a process of the only one."""

    number: int = 0
    slowness: float = 1.0
    is_new: bool = True
    readers: list[Reader] = field(default_factory=list)


class Cloud(Stage):
    """A world, and all that goes on in it.

    Args:
        world: The world to simulate.

    Attributes:
        journal: The events.
        failures: Failures of the run, which was resumed after each.
        torn: Victims that are killed in the middle of a write, the next one when it is their time.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = NfsServer()
        self.server.make(self.server.root, ROOT.strip("/"))
        clock = StageClock(self)
        self._one_machine = NfsClientFiles(self.server, clock)
        WORDS.numbers.seed(f"words {world.seed}")
        super().__init__(
            Path(ROOT),
            world.spec,
            {},
            seed=world.seed,
            limit_s=world.limit_s,
            dies_after=self._draw_death,
            store=Store(ROOT, self._one_machine, clock),
        )
        self.most_turns = MOST_TURNS
        self.journal = Journal(f"{ROOT}/{self.layout.root}")
        self.ledger = Ledger(self.server, ROOT, self.layout, world.workers, has_stand_ins=world.quorum is not None)
        self.ledger.on_vector = self._damage
        self.fence = Fence()
        self.failures: list[dict[str, Any]] = []
        self.torn: set[Actor] = set()
        self._is_over = False
        self._machines = 0
        self._vectors = 0
        self._asked: dict[str, Client] = {}
        self._killed: set[str] = set()
        self._in_vain: Counter[str] = Counter()
        self._wrong = ""
        self.relieved_at: dict[str, float] = {}  # by the beginning of the name of a leg's mark

    # The history

    def live(self) -> None:
        """Have the client start the run, and go on until it is done and nothing is at work any more.

        Raises:
            Violation: Something happened that must not, or the run does not end.
        """
        self._serve(self._follow())
        if self.world.tends:
            self._serve(tend(lambda: self._is_over))
        self._until_still()

    def clean(self) -> None:
        """Have the client remove the run."""
        self._serve(clean(self.world))
        self._until_still()

    def _until_still(self) -> None:
        """Go on until nothing is at work.

        Raises:
            Violation: Something happened that must not, or it does not end.
        """
        while self.step():
            if self.now > self.world.most_s:
                raise Violation(f"the run has not ended after {self.now:.0f} s")
            if self._wrong:
                raise Violation(self._wrong)

    def chance(self, probability: float) -> bool:
        """Whether a fault of that probability happens now."""
        return probability > 0 and self.now < self.world.faults.until_s and self.numbers.random() < probability

    def note(self, call: str, what: str, outcome: str = "") -> None:
        """Note something about the actor at work."""
        self.journal.note(self.now, _name(self.current), call, what, outcome)

    def _excuse(self, failure: dict[str, Any]) -> bool:
        """A run may fail for what is more than the promise covers, and has to say so; most often resuming helps."""
        self.failures.append(failure)
        if self.world.damaged is not None and failure["reason"] == "Corrupt":
            return False
        if (mishap := self.world.mishap) is not None and failure["reason"] == mishap.reason:
            if sum(each["reason"] == mishap.reason for each in self.failures) > mishap.times or not failure["message"]:
                raise Violation(f"the run has failed once more than it had to: {failure}")
            if failure["rank"] is None and failure["round"] is None:
                raise Violation(f"the run has failed, and does not say where: {failure}")
            return True
        if failure["request_id"] not in self._killed:
            raise Violation(f"the run has failed without a reason: {failure}")
        return True

    # The client

    def _follow(self) -> Client:
        yield from follow(self.world, lambda: self.now, self._excuse)
        self._is_over = True

    def _serve(self, client: Client) -> None:
        self._go_on(client, None)

    def _go_on(self, client: Client, answer: Any) -> None:
        try:
            ask = client.send(answer)
        except StopIteration:
            return
        event = Event("control", {"verb": ask.verb, **ask.fields}, self._token(), ATTEMPTS)
        self._asked[event.token] = client
        self._push(event, ask.after_s)

    # Lambda

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """See `Invoker.send`."""
        self.pass_time(INVOKE_S, waits=False)
        if self.current and self.current.event.payload.get("verb") == "tend":
            self._check_guess(_label(role, event), event.get("task") == "reside")
        refused = self.chance(self.world.faults.refuse)
        if refused and self.numbers.random() < 0.5:
            self.note("invoke", _label(role, event), "refused")
            raise Refused(f"{role} was throttled")
        super().send(role, event)
        if refused:
            self.note("invoke", _label(role, event), "queued, but the answer is lost")
            raise Refused(f"the connection to {role} was lost")

    def _check_guess(self, who: str, is_resident: bool) -> None:
        """Count the watchdog's needless calls: if nothing is lost, residents show that they live."""
        self._in_vain[who] += self.world.faults.loses_nothing
        if self._in_vain[who] > (0 if is_resident else waiting.MOST_WATCHDOG_CALLS):
            self._wrong = f"the watchdog sends for {who} in vain, the {self._in_vain[who]}. time"

    def _enqueue(self, event: Event) -> None:
        faults, late = self.world.faults, self.numbers.random() * QUEUE_S
        if self.chance(faults.drop):
            self.note("invoke", _label(event.role, event.payload), "is lost")
            return
        if self.chance(faults.late):
            late = self.numbers.random() * LATE_S
        self.note("invoke", _label(event.role, event.payload), f"{event.token[-4:]}, due in {late:.2f} s")
        self._push(event, late)
        if self.chance(faults.duplicate):
            again = self.numbers.random() * (LATE_S if self.numbers.random() < 0.5 else QUEUE_S)
            self.note("invoke", _label(event.role, event.payload), f"{event.token[-4:]}, again in {again:.2f} s")
            self._push(event, again)

    def _push(self, event: Event, after_s: float) -> None:
        heapq.heappush(self._queue, ((self.now + after_s) * 10, next(self._requests), event))  # type: ignore[misc]

    def _deliver_due(self) -> None:
        while self._queue and self._queue[0][0] / 10 <= self.now + 1e-9:
            _, _, event = heapq.heappop(self._queue)
            if len(self._actors) >= self.world.concurrency and event.token not in self._asked:
                self._push(event, 1.0 + 9.0 * self.numbers.random())
            else:
                self.delivered.append(event)
                self._begin(event)

    def _retry(self, event: Event, error: BaseException) -> None:
        if isinstance(error, Violation):
            raise error
        if not isinstance(error, Killed | Refused):
            who = _label(event.role, event.payload)
            raise Violation(f"{who} raised {error!r}, and no fault explains it") from error
        if event.attempt < ATTEMPTS:
            self._push(replace(event, attempt=event.attempt + 1), RETRY_S * event.attempt)
        elif event.role != "control":
            self._killed.add(event.token)
            record = failure_record(event, type(error).__name__, str(error))
            self._enqueue(Event("control", record, self._token()))

    def _ended(self, actor: Actor) -> None:
        machine = actor.environment
        assert isinstance(machine, Machine)
        if actor.machine.errors and self.world.storage == "local":
            for reader in machine.readers:  # a process that is killed leaves no file open; a machine does
                reader.close()
        machine.readers.clear()
        self.torn.discard(actor)
        if client := self._asked.pop(actor.event.token, None):
            (answer,) = (*actor.machine.results, *actor.machine.errors)
            self._go_on(client, answer)

    # Environments

    def _environment(self, event: Event) -> Environment:
        idle = self._idle[event.role]
        if idle and not self.chance(self.world.faults.reclaim):
            return idle.pop(self.numbers.randrange(len(idle)))
        self._machines += 1
        machine = Machine(self._seen_by_functions, number=self._machines)
        files = NfsClientFiles(self.server, self._clock) if self.world.storage == "nfs" else self._one_machine
        if self.chance(self.world.faults.slow):
            machine.slowness = SLOWNESS
        machine.store = Store(ROOT, Mount(self, files, machine), self._clock)
        return machine

    def _cast(self, event: Event) -> Actor:
        actor = super()._cast(event)
        machine = actor.environment
        assert isinstance(machine, Machine)
        if actor.dies_after is not None and self.numbers.random() < 0.5:
            self.torn.add(actor)
        if machine.is_new:
            machine.is_new = False
            actor.began = actor.wakes_at = self.now + self.world.cold_s * machine.slowness
        return actor

    def _draw_death(self, event: Event) -> int | None:
        """Return the number of calls after which an invocation is killed; None: not at all.

        Without a watchdog, the record of an event that Lambda gave up gets through in the end: if `control` died over
        it each time, that would be an event lost for good.
        """
        after = self.numbers.randrange(MOST_CALLS_OF_A_VICTIM) if self.chance(self.world.faults.kill) else None
        is_last_word = event.role == "control" and "verb" not in event.payload and event.attempt == ATTEMPTS
        return None if is_last_word and not self.world.tends else after

    def _note(self, actor: Actor, *what: str) -> None:
        machine = actor.environment
        assert isinstance(machine, Machine)
        self.journal.note(self.now, _name(actor), "·", f"environment {machine.number}", " ".join(what))

    # Time

    def spend(self, seconds: float) -> None:
        """Let the thread that runs compute for so long."""
        if self.current:
            self.pass_time(seconds * self.current.environment.slowness, waits=False)  # type: ignore[attr-defined]

    def pass_time(self, seconds: float, *, waits: bool = True) -> None:
        """See `Stage.pass_time`. If nobody else is due before, no other thread need be asked."""
        actor = self.current
        if actor is None:
            return
        ends = actor.began + self._limit_s
        actor.wakes_at = min(self.now + seconds, ends)
        others = (other.wakes_at for other in self._actors if other is not actor)
        due = min((*others, *self._next_delivery()), default=self.world.most_s)
        if actor.wakes_at < due and self.turns < MOST_TURNS and actor in self._actors:
            self.turns += 1
            self.now = actor.wakes_at
        else:
            actor.machine.pause()
        if self.now >= ends and not actor.dead:
            actor.dead = True
            self.note("·", "", "is killed at its time limit")
            if waits and self._could_have_left(actor):
                self._wrong = f"{_name(actor)} waits until it is killed at its time limit"
        if actor.dead:
            raise Killed

    def _could_have_left(self, actor: Actor) -> bool:
        """Whether a leg that waits had calls that take no longer than usual, and time to see how long they take."""
        own = f"left-{actor.event.payload.get('rank', 0):04}"
        relieved_s = self.now - self.relieved_at.get(own, 0.0)
        return relieved_s > JUST_RELIEVED_S and not self.world.faults.stall and not self.world.faults.lost_reply

    # The disk

    def _damage(self, file: File) -> None:
        """Change a byte of the vector that the world has chosen."""
        if self._vectors == self.world.damaged:
            file.content[-1] ^= 64
            self.note("·", "", "a byte of what was just published is damaged")
        self._vectors += 1


class Mount(Interposed):
    """The store as one environment has it: every call is a moment at which others go on, and faults come in."""

    def __init__(self, cloud: Cloud, files: Files, machine: Machine) -> None:
        super().__init__(files)
        self._cloud = cloud
        self._machine = machine

    def watch(self, paths: Sequence[str]) -> Watch | None:
        """See `Files.watch`."""
        return StageWatch(self._cloud, paths) if self._cloud.world.storage == "local" else None

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Create a file; a function that is killed during that leaves half of it."""
        self.around(
            "create", path, lambda: self._files.create(path, chunks), lambda: self._files.create(path, half_of(chunks))
        )

    def write(self, path: str) -> Writer:
        """Create a file and fill it piece by piece; a function that is killed during that leaves half of a piece."""
        return TornWriter(self, path, self.around("write", path, lambda: self._files.write(path)))

    def open(self, path: str) -> Reader:
        """Open a file, which is closed at the latest when the process ends."""
        reader = super().open(path)
        self._machine.readers.append(reader)
        return reader

    def around(self, call: str, path: str, carry_out: Callable[[], T], half: Callable[[], object] = lambda: None) -> T:
        """Do a call when it is its turn, with what goes wrong."""
        cloud = self._cloud
        actor, faults = cloud.current, cloud.world.faults
        if actor is None:
            return carry_out()
        if actor.dead:
            raise Killed
        latency_s = cloud.world.latency_s * self._machine.slowness * cloud.numbers.uniform(0.5, 2.0)
        if cloud.chance(faults.stall):
            latency_s += FAILOVER_S * cloud.numbers.uniform(0.1, 1.5)
            cloud.server.restart()
            cloud.note(call, path, f"takes {latency_s:.1f} s")
        cloud.pass_time(latency_s, waits=False)
        actor.calls += 1
        is_due = actor.dies_after is not None and actor.calls > actor.dies_after
        if is_due and (call in TORN or actor not in cloud.torn):
            actor.dead = True
            half()
            cloud.note(call, path, "and is killed in the middle of it" if call in TORN else "and is killed")
            raise Killed
        if call in RESENT and cloud.chance(faults.lost_reply):
            cloud.ledger.before(call, path)
            self._carry_out(call, path, carry_out)
            cloud.note(call, path, "is carried out, but the reply is lost")
            cloud.server.restart()
            cloud.pass_time(FAILOVER_S * cloud.numbers.uniform(0.1, 1.5), waits=False)
        else:
            cloud.ledger.before(call, path)
        return self._carry_out(call, path, carry_out)

    def _carry_out(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        cloud, name, actor = self._cloud, path.rpartition("/")[2], self._cloud.current
        assert actor is not None
        faults = cloud.world.faults
        if call == "link" and not faults.stall and not faults.lost_reply:  # such a call takes half a minute
            cloud.fence.check(actor, name, cloud.now)
        try:
            result = carry_out()
        except OSError as error:
            cloud.note(call, path, type(error).__name__)
            raise
        cloud.note(call, path)
        if call in ("link", "rename"):
            cloud.fence.claimed(actor, name, cloud.now)
            cloud.ledger.appeared(path)
            cloud.relieved_at[name.rpartition("-")[0]] = cloud.now
            cloud.appeared(path.rpartition("/")[0])
        return result


class TornWriter:
    """`Writer` of a mount."""

    def __init__(self, mount: Mount, path: str, writer: Writer) -> None:
        self._mount, self._path, self._writer = mount, path, writer

    def write(self, chunks: Sequence[Buffer], offset: int) -> None:
        """See `Writer.write`."""
        self._mount.around(
            "append",
            self._path,
            lambda: self._writer.write(chunks, offset),
            lambda: self._writer.write(half_of(chunks), offset),
        )

    def close(self) -> None:
        """See `Writer.close`."""
        self._writer.close()


def _name(actor: Actor | None) -> str:
    return _label(actor.event.role, actor.event.payload) if actor else "-"


def _label(role: str, payload: Mapping[str, Any]) -> str:
    match role, payload:
        case "control", {"verb": verb}:
            return f"control {verb}"
        case "control", _:
            return "control (a failure)"
        case "merge", _:
            return f"merge {payload['round'] or 'the end'}"
        case _, {"task": "prepare"}:
            return "worker, preparing"
        case _, {"task": "reside"}:
            return f"rank {payload['rank']}, leg {payload['leg']}.g{payload['generation']}"
        case _:
            return f"rank {payload['rank']}, {payload['task']}-{payload['version']:08d}, leg {payload['leg']}"
