"""Runs whose functions are at work at the same time, one file-system call after the other, as a seed has it.

    stage = Stage(tmp_path, spec_of("plain", topology="sharded", workers=3), seed=7)
    assert stage.run() == undisturbed("plain", 3)

Each invocation is a thread that stops before every call to the file system and whenever it sleeps. The seed says whose
turn it is, and which environment keeps its memory from one invocation to the next. The random generators belong to the
whole process, while each real environment has its own. For jobs that draw, the stage puts them aside when another
thread goes on.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from conformance.interposed import Interposed
from conformance.turns import Machine
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import Role, RunSpec
from estafeta.protocol.warm import Warm
from estafeta.store.files import Files, OsFiles, Watch
from estafeta.store.store import Store

from . import spending
from .driver import ATTEMPTS, Relay, perform
from .events import Arrivals, Event, in_order
from .faults import Killed
from .specs import CODE

T = TypeVar("T")

CALL_S = 0.01
"""Virtual seconds that a call to the file system takes."""

RETRY_S = 1.0
"""Virtual seconds until Lambda tries again."""

MOST_TURNS = 60_000
"""No run of a test needs that many; one that does would never end."""


@dataclass(eq=False)
class Environment:
    """An execution environment.

    Attributes:
        store: Its view of the store.
        memory: Memory that it keeps from one invocation to the next.
    """

    store: Store
    memory: Warm = field(default_factory=Warm)


@dataclass(eq=False)
class Actor:
    """An invocation in progress.

    Attributes:
        event: Event that it was invoked with.
        environment: Environment in which it runs.
        began: Time of the delivery, in virtual seconds.
        wakes_at: Time when it goes on.
        dies_after: Number of calls after which it is killed, if it is.
        frozen_until: It does not go on before that.
    """

    event: Event
    environment: Environment
    began: float
    wakes_at: float = 0.0
    dies_after: int | None = None
    calls: int = 0
    dead: bool = False
    frozen_until: float = 0.0
    generators: tuple[Any, ...] | None = None
    machine: Machine[Any] = field(init=False)

    @property
    def goes_on_at(self) -> float:
        """The time when it goes on."""
        return max(self.wakes_at, self.frozen_until)


class Stage(Relay):
    """A run, and all that is at work on it.

    Args:
        root: Directory of the store.
        spec: Spec of the run.
        code: Text of the user's modules by path.
        seed: Decides whose turn it is.
        limit_s: Time limit of a function, in virtual seconds.
        arrivals: Number of deliveries of events, and their delays, in tenths of a virtual second.
        dies_after: For each invocation, after how many calls it is killed; None: not at all.
        draws: Whether the job draws random numbers while it trains.
        files: Files that carry the calls out.
        store: See `Relay`.
        attempts: Number of attempts at an event.
    """

    def __init__(
        self,
        root: Path,
        spec: RunSpec,
        code: Mapping[str, str] = CODE,
        *,
        seed: int = 0,
        draws: bool = False,
        limit_s: float = 900.0,
        arrivals: Arrivals = in_order,
        dies_after: Callable[[Event], int | None] = lambda event: None,
        files: Files | None = None,
        store: Store | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        super().__init__(root, spec, code, arrivals=arrivals, store=store, attempts=attempts)
        self.now = 0.0
        self.turns = 0
        self.most_turns = MOST_TURNS
        self.history: list[str] = []
        self._draws = draws
        self._limit_s = limit_s
        self._dies_after = dies_after
        self.numbers = random.Random(seed)
        self._actors: list[Actor] = []
        self.current: Actor | None = None
        self._watches: list[StageWatch] = []
        self._idle: dict[Role, list[Environment]] = {"worker": [], "merge": [], "control": []}
        self._clock = StageClock(self)
        self._seen_by_functions = Store(root, Paced(self, files or OsFiles()), self._clock)

    def step(self) -> bool:
        """Give one thread a turn, or deliver an event; return whether there was anything to do."""
        self.turns += 1
        assert self.turns < self.most_turns, "\n".join(("the run does not end:", *self.history[-60:]))
        self._deliver_due()
        ready = [actor for actor in self._actors if actor.goes_on_at <= self.now]
        if not ready:
            times = [actor.goes_on_at for actor in self._actors] + self._next_delivery()
            if not times:
                return False
            self.now = max(self.now, min(times))
            return True
        self._turn(self.numbers.choice(ready))
        return True

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """See `Invoker.call`: from the client, while nothing else goes on."""
        actor = self._begin(Event(role, event, self._token()))
        while not actor.machine.finished:
            self._turn(actor)
            self.now = max(self.now, actor.wakes_at)
        (error,) = actor.machine.errors or (None,)
        if error:
            raise error
        return actor.machine.results[0]

    def kill(self, actor: Actor) -> None:
        """End an invocation now; it does nothing from here on, and Lambda does not try again."""
        actor.dead = True
        while not actor.machine.finished:
            self._within(actor, actor.machine.step)
        self._actors.remove(actor)

    def freeze(self, actor: Actor, seconds: float) -> None:
        """Have an invocation stand still for so long, whatever it waits for."""
        actor.frozen_until = self.now + seconds

    def kill_all(self) -> None:
        """End all that is at work, and lose all events that wait."""
        for actor in list(self._actors):
            self.kill(actor)
        self._queue.clear()

    def lose(self, which: Callable[[Event], bool]) -> None:
        """Lose some of the events that wait."""
        self._queue = [entry for entry in self._queue if not which(entry[2])]
        heapq.heapify(self._queue)

    @property
    def at_work(self) -> list[Actor]:
        """The invocations in progress."""
        return list(self._actors)

    def _enqueue(self, event: Event) -> None:
        for later in self._arrivals(event):
            heapq.heappush(self._queue, (self.now * 10 + later, next(self._requests), event))  # type: ignore[misc]

    def _retry(self, event: Event, error: BaseException) -> None:
        if event.attempt < self._attempts:
            again = replace(event, attempt=event.attempt + 1)
            heapq.heappush(self._queue, ((self.now + RETRY_S) * 10, next(self._requests), again))  # type: ignore[misc]
        else:
            super()._retry(event, error)

    def _deliver_due(self) -> None:
        while self._queue and self._queue[0][0] / 10 <= self.now + 1e-9:
            _, _, event = heapq.heappop(self._queue)
            self.delivered.append(event)
            self.on_delivery(event)
            self._begin(event)

    def _next_delivery(self) -> list[float]:
        return [due / 10 for due, _, _ in self._queue[:1]]

    def _environment(self, event: Event) -> Environment:
        """The environment that carries an event out: a warm one, or a new one."""
        idle = self._idle[event.role]
        if idle and self.numbers.random() < 0.7:
            return idle.pop(self.numbers.randrange(len(idle)))
        return Environment(self._seen_by_functions)

    def _cast(self, event: Event) -> Actor:
        return Actor(event, self._environment(event), self.now, self.now, self._dies_after(event))

    def _begin(self, event: Event) -> Actor:
        actor = self._cast(event)
        actor.machine = Machine(lambda: self._invoke(actor))
        self._note(actor, f"begins, attempt {event.attempt}")
        self._within(actor, actor.machine.start)
        self._actors.append(actor)
        return actor

    def _turn(self, actor: Actor) -> None:
        if self.now - actor.began > self._limit_s + 1e-9:
            actor.dead = True
        self._within(actor, actor.machine.step)
        if not actor.machine.finished:
            return
        self._actors.remove(actor)
        self._note(actor, *map(repr, (*actor.machine.errors, *actor.machine.results)))
        if not actor.machine.errors:
            self._idle[actor.event.role].append(actor.environment)
        else:
            (error,) = actor.machine.errors
            if not isinstance(error, Killed | Exception):
                raise error
            self.errors.append(error)
            self.on_error(actor.event)
            self._retry(actor.event, error)
        self._ended(actor)

    def _ended(self, actor: Actor) -> None:
        """An invocation is over. Here nobody waits for it."""

    def _within(self, actor: Actor, go: Callable[[], None]) -> None:
        """Let a thread go on, with the random generators of its own process."""
        if self._draws and actor.generators is not None:
            _restore(actor.generators)
        before, self.current = self.current, actor
        spending.spend = self.spend
        go()
        self.current = before
        if self._draws:
            actor.generators = _generators()

    def _invoke(self, actor: Actor) -> Any:
        if actor.dead:
            raise Killed
        event = actor.event
        invocation = Invocation(
            actor.environment.store,
            lambda functions: self,
            event.token,
            lambda: self._limit_s - (self.now - actor.began),
            event.role,
            quiet=True,
            warm=actor.environment.memory,
        )
        return perform(event, invocation)

    def _note(self, actor: Actor, *what: str) -> None:
        payload = actor.event.payload
        who = " ".join(
            f"{name} {payload[name]}" for name in ("task", "verb", "rank", "leg", "generation") if name in payload
        )
        self.history.append(f"{self.now:9.2f} s  {actor.event.role} {who}: {' '.join(what)}")

    def appeared(self, directory: str) -> None:
        """Wake all who watch a directory."""
        for watch in self._watches:
            if directory in watch.paths:
                watch.fired = True
                if watch.is_waiting and watch.actor is not None:
                    watch.actor.wakes_at = min(watch.actor.wakes_at, self.now)

    def spend(self, seconds: float) -> None:
        """Let the thread that runs compute for so long."""
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Let the thread that runs go on so much later. Called on it."""
        actor = self.current
        if actor is not None:
            actor.wakes_at = self.now + seconds
            actor.machine.pause()
            if actor.dead:
                raise Killed


class Paced(Interposed):
    """Files of a process that takes turns with others, and may be killed."""

    def __init__(self, stage: Stage, files: Files) -> None:
        super().__init__(files)
        self._stage = stage

    def watch(self, paths: Sequence[str]) -> Watch:
        """See `Files.watch`: all actors are on this machine."""
        return StageWatch(self._stage, paths)

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Wait for one's turn, then do the call."""
        actor = self._stage.current
        if actor is None or actor.machine.is_elsewhere():  # or a thread that reads ahead for it
            return carry_out()
        if not actor.dead:
            self._stage.spend(CALL_S)
        actor.calls += 1
        actor.dead |= actor.dies_after is not None and actor.calls > actor.dies_after
        if actor.dead:
            raise Killed
        result = carry_out()
        if call in ("link", "rename"):
            self._stage.appeared(path.rpartition("/")[0])
        return result


class StageWatch:
    """`Watch` of one actor."""

    def __init__(self, stage: Stage, paths: Sequence[str]) -> None:
        self._stage = stage
        self.paths = frozenset(paths)
        self.fired = self.is_waiting = False
        self.actor = stage.current
        stage._watches.append(self)

    def wait(self, timeout_s: float) -> None:
        """See `Watch.wait`."""
        if not self.fired:
            self.is_waiting = True
            self._stage.pass_time(timeout_s)
        self.fired = self.is_waiting = False

    def close(self) -> None:
        """See `Watch.close`."""
        self._stage._watches.remove(self)


class StageClock:
    """`Clock` of the stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._stage.now

    def time(self) -> float:
        """See `Clock.time`."""
        return self._stage.now

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        self._stage.pass_time(seconds)


def _generators() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
