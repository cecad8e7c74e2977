"""The verb `clean`: a run that has ended is removed, or all of it but its exports and records."""

from __future__ import annotations

from estafeta.errors import Command, UsageError
from estafeta.functions.verbs.status import layout_of, spec_of
from estafeta.protocol.finish import export
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.snapshot import OUTCOMES, take_snapshot
from estafeta.protocol.spec import RunSpec, Which
from estafeta.protocol.verbs import CleanVerb


def clean(verb: CleanVerb, invocation: Invocation) -> dict[str, str]:
    """Remove a run that has ended; a call that was broken off is continued by the next one.

    Returns:
        The run's name, for the client.

    Raises:
        UsageError: The run has not ended.
        RunNotFound: No run has that name.
    """
    run, store = verb.run, invocation.store
    if verb.keep_final:
        return strip(spec_of(run, store), invocation)
    layout = layout_of(run, store)
    outcomes = [layout.outcome(state).rpartition("/")[2] for state in OUTCOMES]
    if store.list(layout.root).isdisjoint(outcomes):
        store.remove_if_empty(layout.root)
        spec_of(run, store)
        raise UsageError(f"{run} has not ended", hint=f"{Command('estafeta', 'stop', run)}")
    store.remove_tree(layout.root, last=[layout.spec.rpartition("/")[2], *outcomes])
    return {"run": run}


def strip(spec: RunSpec, invocation: Invocation) -> dict[str, str]:
    """Remove all of a run that has ended but its exports, spec, plan, records of the epochs, and outcome.

    The run can be looked at and exported, but neither resumed nor forked. A run that never had weights has no exports.

    Returns:
        The run's name, for the client.

    Raises:
        UsageError: The run has not ended.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    snapshot = take_snapshot(store, layout, spec)
    if snapshot.outcome is None:
        raise UsageError(f"{spec.run} has not ended", hint=f"{Command('estafeta', 'stop', spec.run)}")
    if snapshot.version is not None:
        for which in ("best", "final"):
            export_if_missing(which, spec, invocation)
    for directory in (layout.weights, layout.contributions, layout.partial, layout.legs, layout.exchange, layout.code):
        store.remove_tree(directory)
    store.sweep(layout.root, [layout.reserve.rpartition("/")[2]])
    for directory in (layout.root, layout.epochs, layout.export("best"), layout.export("final")):
        store.sweep_temporary(directory)
    return {"run": spec.run}


def export_if_missing(which: Which, spec: RunSpec, invocation: Invocation) -> None:
    """Export a version of a run that has ended; a failed run is exported when a client asks for it.

    Raises:
        UsageError: The run has not ended, or has no weights.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    if store.exists(f"{layout.export(which)}/state.json"):
        return
    snapshot = take_snapshot(store, layout, spec)
    if snapshot.outcome is None:
        hint = f"wait for its end, or: {Command('estafeta', 'stop', spec.run)}"
        raise UsageError(f"{spec.run} is still running", hint=hint)
    if snapshot.version is None:
        hint = f"see why it ended: {Command('estafeta', 'status', spec.run)}"
        raise UsageError(f"{spec.run} ended before it had any weights", hint=hint)
    best = snapshot.last_epoch.best_version if snapshot.last_epoch else snapshot.version
    export(which, best if which == "best" else snapshot.version, spec, invocation)
