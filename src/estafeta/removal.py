"""Removing a run that has ended: all of it, or all but its exports and records.

A whole run leaves in one step: its folder is renamed into `trash/`, where nobody looks, and is removed from there. Who
dies in between leaves a part of it in the trash, which the next removal clears.
"""

from __future__ import annotations

import secrets

from estafeta.errors import UsageError
from estafeta.finish import export
from estafeta.invocation import Invocation
from estafeta.layout import TRASH, RunLayout
from estafeta.snapshot import take_snapshot
from estafeta.spec import RunSpec, Which
from estafeta.store import Store


def clean(spec: RunSpec, invocation: Invocation, *, keep_final: bool) -> dict[str, str]:
    """Remove a run that has ended, with all its files, also those that were never published.

    Args:
        spec: The run's spec.
        invocation: This invocation.
        keep_final: Leave the exports and what tells of the run: spec, plan, records of the epochs, outcome. It can be
            looked at and exported, but neither resumed nor forked.

    Returns:
        The run's name, for the client.

    Raises:
        UsageError: It has not ended.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    if take_snapshot(store, layout, spec).outcome is None:
        raise UsageError(f"{spec.run} has not ended", hint=f"estafeta stop {spec.run}")
    if keep_final:
        _strip(spec, invocation)
    else:
        store.make_directories(TRASH)
        store.move(layout.root, f"{TRASH}/{spec.run}-{secrets.token_hex(8)}")
        empty_trash(store)
    return {"run": spec.run}


def empty_trash(store: Store) -> None:
    """Remove what is in the trash: nobody reads it, or writes there."""
    for name in store.list(TRASH):
        store.remove_tree(f"{TRASH}/{name}")


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


def _strip(spec: RunSpec, invocation: Invocation) -> None:
    """Remove all but exports and records; a run that never had weights has no exports to keep."""
    store, layout = invocation.store, RunLayout(spec.run)
    if take_snapshot(store, layout, spec).version is not None:
        for which in ("best", "final"):
            export_if_missing(which, spec, invocation)
    for directory in (layout.weights, layout.contributions, layout.partial, layout.legs, layout.exchange, layout.code):
        store.remove_tree(directory)
    store.sweep(layout.root, [layout.reserve.rpartition("/")[2]])
    for directory in (layout.root, layout.epochs, layout.export("best"), layout.export("final")):
        store.sweep_unpublished(directory)
