"""Fault injection: what Lambda may do to events and environments, done on purpose and repeatably.

This module only decides; the queue and the environments carry the faults out. A function version may bring faults of
its own, in two environment variables. Versions with the same values share one injector; all others use the service's.
Invariant: an injector's decisions for its n-th event, invocation and environment depend on the seed and n alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

from estafeta.errors import UsageError

FAULTS = "LOCAL_FAULTS"
"""Environment variable with the faults of a function version, as `Faults.parse` reads them."""
FAULTS_NAME = "LOCAL_FAULTS_NAME"
"""Environment variable with their owner: the log shows it, and versions of one owner draw from one injector."""
LONGEST_DELAY_S = 2.0
"""Seconds that an event is delayed at most: longer than a round of a small run, shorter than the patience of peers."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities, each from 0 to 1, and the seed.

    Attributes:
        duplicate: Probability that an asynchronous event is delivered a second time, a little later.
        drop: Probability that an asynchronous event is accepted and never delivered.
        delay: Probability that an asynchronous event is delivered late.
        kill: Probability that the process is killed at a random moment of an invocation.
        slow: Probability that an environment gets only a fraction of the processor's time, all its life.
        seed: Seed of all decisions.
    """

    duplicate: float = 0.0
    drop: float = 0.0
    delay: float = 0.0
    kill: float = 0.0
    slow: float = 0.0
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read `duplicate=0.1,kill=0.05,seed=3`; an empty text means no faults.

        Raises:
            UsageError: The text has an unknown name, or a value outside its range.
        """
        valid = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            if name not in valid:
                raise UsageError(f"There is no fault {name!r}", hint=f"Valid names: {', '.join(valid)}.")
            try:
                number = int(value) if name == "seed" else float(value)
            except ValueError:
                number = -1.0
            if number < 0 or (name != "seed" and not number <= 1):
                kind = "a whole number from 0" if name == "seed" else "a probability from 0 to 1"
                raise UsageError(f"Fault {item!r} needs {kind}", hint="For example duplicate=0.1,kill=0.05,seed=3.")
            values[name] = number
        return cls(**values)  # type: ignore[arg-type]


class Injector:
    """Draws the decisions in order."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._drawn: Counter[str] = Counter()
        self._typical_s: dict[str, float] = {}

    def deliveries(self) -> tuple[float, ...]:
        """Seconds after which the next asynchronous event is delivered: one number, none or two."""
        faults = self._faults
        if not (faults.duplicate or faults.drop or faults.delay):
            return (0.0,)
        draw = self._draw("event")
        dropped, doubled, delayed = draw.random(), draw.random(), draw.random()
        first_s = draw.uniform(0.0, LONGEST_DELAY_S) if delayed < faults.delay else 0.0
        second_s = draw.uniform(0.0, LONGEST_DELAY_S)
        if dropped < faults.drop:
            return ()
        return (first_s, second_s) if doubled < faults.duplicate else (first_s,)

    def kill_after_s(self, function: str) -> float | None:
        """Seconds into the next invocation of a function at which its process is to be killed, or None."""
        if not self._faults.kill:
            return None
        draw = self._draw("invocation")
        hit, moment = draw.random(), draw.random()
        return moment * self._typical_s.get(function, 0.05) if hit < self._faults.kill else None

    def lasted(self, function: str, duration_s: float) -> None:
        """Learn how long invocations of a function take, so that the moment of a kill falls inside one."""
        if self._faults.kill:
            before_s = self._typical_s.get(function, duration_s)
            self._typical_s[function] = before_s + (duration_s - before_s) / 4

    def slow_environment(self) -> bool:
        """Whether the next environment is to be a slow one."""
        return bool(self._faults.slow) and self._draw("environment").random() < self._faults.slow

    def _draw(self, kind: str) -> random.Random:
        self._drawn[kind] += 1
        return random.Random(f"{self._faults.seed}/{kind}/{self._drawn[kind]}")


class Injectors:
    """The injector of each function version.

    Args:
        faults: Faults for versions that bring none.
    """

    def __init__(self, faults: Faults) -> None:
        self._common = Injector(faults)
        self._own: dict[tuple[str, str], Injector] = {}

    def of(self, environment: Mapping[str, str]) -> Injector:
        """The injector of a version with these environment variables.

        Raises:
            UsageError: The faults cannot be read.
        """
        text, name = environment.get(FAULTS, ""), environment.get(FAULTS_NAME, "")
        if not text:
            return self._common
        if (text, name) not in self._own:
            self._own[text, name] = Injector(Faults.parse(text))
        return self._own[text, name]


def kinds(deliveries: tuple[float, ...]) -> list[str]:
    """Names of the faults that `Injector.deliveries` has decided on."""
    if not deliveries:
        return ["drop"]
    return [*(["delay"] if deliveries[0] else []), *(["duplicate"] if len(deliveries) > 1 else [])]
