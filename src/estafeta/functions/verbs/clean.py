"""The verb `clean`: a run that has ended is removed, or all of it but its exports and records."""

from estafeta.errors import Command, UsageError
from estafeta.functions.verbs.status import folder_of, layout_of
from estafeta.protocol.ending import export
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import name_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES, take_snapshot
from estafeta.protocol.spec import Which
from estafeta.protocol.verbs import CleanVerb


def clean(verb: CleanVerb, invocation: Invocation) -> dict[str, str]:
    """Remove a run that has ended, and return its name; the next call goes on with a call that was broken off.

    Raises:
        UsageError: The run has not ended.
        RunNotFound: No run has that name.
    """
    run, store = verb.run, invocation.store
    if verb.keep_final:
        return strip(folder_of(run, store), invocation.token)
    layout = layout_of(run, store)
    outcomes = [name_of(layout.outcome(state)) for state in OUTCOMES]
    if store.list(layout.root).isdisjoint(outcomes):
        store.remove_if_empty(layout.root)
        folder_of(run, store)
        raise UsageError(f"{run} has not ended", hint=f"{Command('estafeta', 'stop', run)}")
    store.remove_tree(layout.root, last=[name_of(layout.spec), *outcomes])
    return {"run": run}


def strip(folder: RunFolder, token: str) -> dict[str, str]:
    """Remove all of a run that has ended but its exports, spec, plan, records of the epochs, and outcome.

    A client can look at the run and export it, but neither resume nor fork it. A run that never had weights has no
    exports. The function returns the run's name.

    Raises:
        UsageError: The run has not ended.
    """
    store, layout = folder.store, folder.layout
    snapshot = take_snapshot(folder)
    if snapshot.outcome is None:
        raise UsageError(f"{folder.run} has not ended", hint=f"{Command('estafeta', 'stop', folder.run)}")
    if snapshot.version is not None:
        for which in ("best", "final"):
            export_if_missing(which, folder, token)
    for directory in (layout.weights, layout.contributions, layout.partial, layout.legs, layout.exchange, layout.code):
        store.remove_tree(directory)
    store.sweep(layout.root, [name_of(layout.reserve)])
    for directory in (layout.root, layout.epochs, layout.export("best"), layout.export("final")):
        store.sweep_temporary(directory)
    return {"run": folder.run}


def export_if_missing(which: Which, folder: RunFolder, token: str) -> None:
    """Export a version of a run that has ended; a failed run is exported when a client asks for it.

    Raises:
        UsageError: The run has not ended, or has no weights.
    """
    if folder.store.exists(f"{folder.layout.export(which)}/state.json"):
        return
    snapshot = take_snapshot(folder)
    if snapshot.outcome is None:
        hint = f"wait for its end, or: {Command('estafeta', 'stop', folder.run)}"
        raise UsageError(f"{folder.run} is still running", hint=hint)
    if snapshot.version is None:
        hint = f"see why it ended: {Command('estafeta', 'status', folder.run)}"
        raise UsageError(f"{folder.run} ended before it had any weights", hint=hint)
    best = snapshot.last_epoch.best_version if snapshot.last_epoch else snapshot.version
    export(which, best if which == "best" else snapshot.version, folder, token)
