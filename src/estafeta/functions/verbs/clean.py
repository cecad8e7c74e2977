"""What stays of a run that was cleaned down to its final weights: its exports, and what tells of it."""

from __future__ import annotations

from estafeta.errors import UsageError
from estafeta.protocol.finish import export
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.snapshot import take_snapshot
from estafeta.protocol.spec import RunSpec, Which


def strip(spec: RunSpec, invocation: Invocation) -> dict[str, str]:
    """Remove all of a run that has ended but its exports, spec, plan, records of the epochs, and outcome.

    It can be looked at and exported, but neither resumed nor forked. A run that never had weights has no exports.

    Returns:
        The run's name, for the client.

    Raises:
        UsageError: It has not ended.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    snapshot = take_snapshot(store, layout, spec)
    if snapshot.outcome is None:
        raise UsageError(f"{spec.run} has not ended", hint=f"estafeta stop {spec.run}")
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
    """Export a version of a run that has ended; a run that has failed does so only when somebody wants it.

    Raises:
        UsageError: It has not ended, or has no weights.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    if store.exists(f"{layout.export(which)}/state.json"):
        return
    snapshot = take_snapshot(store, layout, spec)
    if snapshot.outcome is None:
        raise UsageError(f"{spec.run} is still running", hint=f"wait for its end, or: estafeta stop {spec.run}")
    if snapshot.version is None:
        raise UsageError(f"{spec.run} ended before it had any weights")
    best = snapshot.last_epoch.best_version if snapshot.last_epoch else snapshot.version
    export(which, best if which == "best" else snapshot.version, spec, invocation)
