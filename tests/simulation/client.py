"""The two that ask `control` in a simulated run: the client, which starts, stops and resumes it, and the watchdog."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from core.specs import CODE

from .ledger import Violation
from .world import World

AGAIN_S = 20.0
"""Seconds until the client repeats a call that ended in an error."""

QUIET_S = 1500.0
"""Seconds for which a run may be at one version if no event is lost. A retry comes after two minutes at most, and
looks up to six minutes for signs of life of the leg before. That may happen twice."""

TENDED_QUIET_S = 3 * 3600.0
"""Seconds for the same with the watchdog: it looks every five minutes, acts at growing intervals, and leaves alone
functions that may be alive."""

TICK_S = 300.0
"""Seconds between two looks of the watchdog, as the template has it."""

EXCUSED = {("resume", "UsageError"), ("stop", "UsageError"), ("clean", "RunNotFound")}
"""Refusals that the client may get: the run has ended since it looked, or an attempt that was broken off got so far."""


@dataclass(frozen=True)
class Ask:
    """A verb for `control`, after a while."""

    after_s: float
    verb: str
    fields: Mapping[str, Any]


Answer = dict[str, Any] | BaseException
Client = Generator[Ask, Answer, None]


def follow(world: World, now: Callable[[], float], failed: Callable[[dict[str, Any]], bool]) -> Client:
    """Start a run and see to it that it gets done.

    Args:
        world: The run, and what the client does to it.
        now: The time.
        failed: Told the outcome of a run that failed, says whether resuming helps; raises if there is no excuse for it.
    """
    spec = world.spec
    yield from _insist("start", spec=spec.model_dump(mode="json"), code=dict(CODE))
    stop_at, most = world.stop_after_s, world.max_rounds
    since, seen = now(), None
    while True:
        status = yield from _insist("status", world.watch_s, run=spec.run)
        if seen != (seen := (status["state"], status["version"], status["epoch"])):
            since = now()
        match status["state"]:
            case "done":
                return
            case "failed":
                if not failed(status["outcome"]["failure"]):
                    return
                yield from _insist("resume", run=spec.run)
            case "stopped" if status["outcome"]["limited"]:
                if most is None or status["version"] != most:
                    raise Violation(f"the run has stopped at version {status['version']}, and may do {most} rounds")
                most += world.max_rounds or 0
                yield from _insist("resume", run=spec.run, limits={"max_rounds": most})
            case "stopped":
                if stop_at is not None:
                    raise Violation("the run has stopped, and nobody asked it to")
                yield from _insist("resume", run=spec.run)
            case _ if stop_at is not None and now() >= stop_at:
                stop_at = None
                yield from _insist("stop", run=spec.run)
            case _ if world.resumes and now() < world.faults.until_s:
                yield from _insist("resume", run=spec.run)
            case _ if now() - since > (TENDED_QUIET_S if world.tends else QUIET_S) + world.patience_s:
                what = "the watchdog looks after it" if world.tends else "no event was lost"
                raise Violation(f"the run stands still for {now() - since:.0f} s, though {what}")


def tend(is_over: Callable[[], bool]) -> Client:
    """Have the watchdog look after all runs, until there is none. Nobody repeats a look that ended in an error."""
    while not is_over():
        answer = yield Ask(TICK_S, "tend", {})
        if isinstance(answer, dict) and any(what.startswith("failed: ") for what in answer["tended"].values()):
            raise Violation(f"the watchdog cannot look after the run: {answer}")


def clean(world: World) -> Client:
    """Remove a run."""
    yield from _insist("clean", run=world.spec.run)


def _insist(verb: str, after_s: float = 0.0, **fields: Any) -> Generator[Ask, Answer, dict[str, Any]]:
    """Ask until there is an answer: a call that ended in an error may have been carried out, or not."""
    while isinstance(answer := (yield Ask(after_s, verb, fields)), BaseException):
        after_s = AGAIN_S
    if "error" in answer and (verb, answer["error"]["kind"]) not in EXCUSED:
        raise Violation(f"{verb} is refused: {answer['error']}")
    return answer
