"""The watchdog: sets runs going again that stand still, because an event was lost without a trace.

Called on a schedule, it remembers by a note in the run's folder what listings showed the last time. A run that shows
the same again may have lost an event, or may only have a long round. So it is set going again after one look, then
after two more, then four, and not sooner than its earlier rounds let expect. What is sent for is what `resume` would
send for; but a resident that may still be alive is left to its peers.

A wrong guess costs an invocation. Of residents there is none, where nothing is lost: their claims say how long they may
live. In `merge` nothing shows of a worker at its share, so one that is longer than two looks is computed once more, and
`MOST_CALLS` times more at most while nothing else changes; doubles leave where they find it published, and do not
multiply. A run that does not move after so many attempts fails, and can be resumed.
"""

import hashlib
from dataclasses import replace
from typing import Literal

from pydantic import ValidationError

from estafeta import waiting
from estafeta.errors import Command, EstafetaError, Gone
from estafeta.protocol.ending import fail
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RUNS, RunLayout
from estafeta.protocol.patience import Patience
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES, Action, Reside, Snapshot, current_round, take_snapshot, takeovers
from estafeta.protocol.spec import Document, Failure
from estafeta.residents.marks import read_claim, send_for


class Note(Document):
    """What the watchdog remembers of a run: `watch.json`.

    Attributes:
        seen: Digest of what listings showed.
        since: When that was seen first, in seconds since 1970, by the watchdog's clock.
        looks: How often it was seen again, since the run was last set going.
        calls: How often the run was set going again without any change.
        called_at: When, the last time; 0 if it was not.
        stretches_s: How long the last states of the run were seen.
    """

    format: Literal["estafeta-watch/1"] = "estafeta-watch/1"
    seen: str
    since: float
    looks: int = 0
    calls: int = 0
    called_at: float = 0.0
    stretches_s: tuple[float, ...] = ()


def look(note: Note | None, seen: str, now: float) -> tuple[Note, bool]:
    """Compare the digest of what listings show now with the last look's; `now` is in seconds since 1970.

    The function returns what to remember, and whether it is time to do something.
    """
    if note is None:
        return Note(seen=seen, since=now), False
    if note.seen != seen:
        stretches_s = (*note.stretches_s, max(0.0, now - note.since))[-waiting.RECENT_STRETCHES :]
        return Note(seen=seen, since=now, stretches_s=stretches_s), False
    patience = Patience(floor_s=0.0, start_s=0.0)
    for stretch_s in note.stretches_s:
        patience.note(stretch_s)
    note = note.model_copy(update={"looks": note.looks + 1})
    return note, note.looks >= 2**note.calls and now - max(note.since, note.called_at) >= patience.limit_s


def digest_of(snapshot: Snapshot) -> str:
    """What changes whenever a run gets on."""
    epoch = snapshot.last_epoch.epoch if snapshot.last_epoch else 0
    facts = replace(snapshot, plan=None, last_epoch=None, ranks=frozenset(), left=frozenset())
    return hashlib.sha256(repr((epoch, facts, sorted(snapshot.ranks), sorted(snapshot.left))).encode()).hexdigest()[:16]


def tend_all(invocation: Invocation) -> dict[str, str]:
    """Look after all runs that have not ended; of each, what was done."""
    store = invocation.store
    done: dict[str, str] = {}
    for run in sorted(store.list(RUNS)):
        names = store.list(RunLayout(run).root)
        if "run.json" not in names or any(f"{state}.json" in names for state in OUTCOMES):
            continue
        try:
            done[run] = tend(RunFolder(store, run), invocation)
        except (EstafetaError, ValidationError) as error:  # cleaned away meanwhile, or damaged: the next runs matter
            done[run] = f"failed: {error}"
    return done


def tend(folder: RunFolder, invocation: Invocation) -> str:
    """Look after a run; return what was done."""
    now, functions = folder.store.clock.time(), folder.spec.functions
    snapshot = take_snapshot(folder)
    if snapshot.outcome:
        return "has ended"
    note, is_time = look(_read_note(folder), digest_of(snapshot), now)
    done = "goes on" if not note.looks else "waits"
    if is_time and note.calls >= waiting.MOST_WATCHDOG_CALLS:
        if now - note.called_at > max(function.timeout_s for function in functions.values()):
            _give_up(snapshot, folder, note, invocation)
            return "was ended as failed"
    elif is_time and (actions := _without_the_living(takeovers(snapshot), folder)):
        send_for(actions, folder, invocation)
        note = note.model_copy(update={"looks": 0, "calls": note.calls + 1, "called_at": now})
        done = f"was set going again: {len(actions)} events"
    folder.store.replace(folder.layout.watch, [note.to_json()])
    return done


def _without_the_living(actions: tuple[Action, ...], folder: RunFolder) -> tuple[Action, ...]:
    """Leave out residents in place of others that may be alive: to replace one in a long round would begin it anew."""
    now = folder.store.clock.time()

    def may_live(action: Action) -> bool:
        if not isinstance(action, Reside) or not action.generation:
            return False
        try:
            claim = read_claim(folder, action.rank, action.leg, action.generation - 1)
        except Gone:
            return True  # swept by a later leg
        return now <= claim.expires_at

    return tuple(action for action in actions if not may_live(action))


def _give_up(snapshot: Snapshot, folder: RunFolder, note: Note, invocation: Invocation) -> None:
    round_ = None
    if snapshot.plan and snapshot.version is not None:
        round_ = current_round(snapshot.plan, max(snapshot.version, snapshot.reached), snapshot.last_epoch)
    where = f" at {round_.name}" if round_ else ", before its first round" if snapshot.plan is None else ""
    worker = folder.spec.functions["worker"]
    failure = Failure(
        reason="StoodStill",
        message=f"the run stands still{where}, though it was set going again {note.calls} times",
        hint=f"see what its functions wrote last: {Command('estafeta', 'logs', folder.run)}; "
        f"then: {Command('estafeta', 'resume', folder.run)}",
        round=round_.name if round_ else None,
        function=worker.name,
        log_group=worker.log_group,
    )
    fail(folder, invocation, failure)


def _read_note(folder: RunFolder) -> Note | None:
    path = folder.layout.watch
    return Note.model_validate_json(folder.store.read(path)) if folder.store.exists(path) else None
