"""The verbs `status` and `runs`: how a run stands, and which runs there are."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from estafeta.errors import Command, Corrupt, Gone, RunNotFound
from estafeta.functions.verbs.kept import kept
from estafeta.protocol.layout import RUN_NAME, RUNS, RunLayout
from estafeta.protocol.limits import newest_limits
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import read_epoch, take_snapshot
from estafeta.protocol.spec import Outcome, RunSpec, Status
from estafeta.protocol.verbs import RunsVerb, StatusVerb
from estafeta.store.store import Store

ANSWER_BYTES = 4 << 20
"""Size at which a list is cut: an answer may have 6 MB, and one entry has some thousand bytes."""


def status(verb: StatusVerb, folder: RunFolder) -> dict[str, Any]:
    """State of a run as a `Status`, ready for JSON, with the records of the epochs that the verb asks for."""
    store, layout, spec = folder.store, folder.layout, folder.spec
    snapshot = take_snapshot(folder)
    newest = snapshot.last_epoch.epoch if snapshot.last_epoch else 0
    first = verb.since_epoch if verb.newest is None else max(verb.since_epoch, newest - verb.newest)
    records = [read_epoch(folder, epoch) for epoch in range(first + 1, newest + 1)]
    plan, ended = snapshot.plan, snapshot.outcome
    outcome = Outcome.model_validate_json(store.read(layout.outcome(ended))) if ended else None
    return Status(
        spec=spec,
        state=ended or ("stopping" if snapshot.stop_requested else "running" if plan else "preparing"),
        outcome=outcome,
        version=snapshot.reached if outcome is None else snapshot.version or outcome.version or 0,
        topology=plan.topology if plan else None,
        total_steps=plan.total_steps if plan else None,
        steps_per_epoch=plan.steps_per_epoch if plan else None,
        train_rows=plan.train_rows if plan else None,
        valid_rows=plan.valid_rows if plan else None,
        parameters=plan.size if plan else None,
        epoch=newest,
        epochs=tuple(record for record in records if record),
        limits=newest_limits(folder, store.list(layout.root)),
        spent_usd=snapshot.last_epoch.spent_usd if snapshot.last_epoch else 0.0,
        kept=kept(folder, plan) if verb.with_kept else None,
    ).model_dump(mode="json")


def brief(folder: RunFolder) -> dict[str, Any]:
    """State of a run without the records of its epochs, as `status` answers it."""
    return status(StatusVerb(run=folder.run, newest=0), folder)


def runs(verb: RunsVerb, store: Store) -> dict[str, Any]:
    """Runs in the order of their names.

    Returns:
        `runs`, each as `brief` has it; `unreadable`, the names of runs whose files are damaged or of another version;
        and whether there are `more`.
    """
    found: list[dict[str, Any]] = []
    unreadable: list[str] = []
    size = 0
    for run in (name for name in names(store) if name > verb.after):
        if size > ANSWER_BYTES:
            return {"runs": found, "unreadable": unreadable, "more": True}
        if not store.exists(RunLayout(run).spec):
            continue
        try:
            one = brief(folder_of(run, store))
        except (Corrupt, ValidationError):
            unreadable.append(run)
            continue
        found.append(one)
        size += len(json.dumps(one))
    return {"runs": found, "unreadable": unreadable, "more": False}


def names(store: Store) -> list[str]:
    """Names of all folders that may be runs."""
    return sorted(filter(RUN_NAME.fullmatch, store.list(RUNS)))


def folder_of(run: str, store: Store) -> RunFolder:
    """The folder of a run, with its spec read anew: `control` outlives the runs that it cleans away.

    Raises:
        RunNotFound: No run has that name; the hint has the nearest names.
        Corrupt: The spec cannot be read.
    """
    try:
        return RunFolder(store, run, RunSpec.model_validate_json(store.read(layout_of(run, store).spec)))
    except Gone:
        raise not_found(run, names(store)) from None
    except ValidationError as error:
        raise Corrupt(
            f"The spec of {run} cannot be read: {error}", hint="was it started by another version of Estafeta?"
        ) from error


def layout_of(run: str, store: Store) -> RunLayout:
    """Paths of a run that a client names; a text that is no name would lead out of the folder of the runs.

    Raises:
        RunNotFound: The text is no name.
    """
    if not RUN_NAME.fullmatch(run):
        raise not_found(run, names(store))
    return RunLayout(run)


def not_found(text: str, names: Iterable[str]) -> RunNotFound:
    """The error for a name `text` that no run has; its hint has the nearest of the `names` of runs."""
    names = list(names)
    close = difflib.get_close_matches(text, names, 3) or [name for name in names if text in name]
    hint = f"did you mean {', '.join(close[-5:])}?" if close else f"{Command('estafeta', 'runs')} lists them"
    return RunNotFound(f"There is no run named {text!r}", hint=hint)
