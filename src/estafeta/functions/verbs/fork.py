"""Forking: a new run that begins with a version of another.

    weights, optimiser state, code    further names of the origin's files: no tensor is read or written
    epochs up to there                judged anew, as the fork may have another rule for stopping
    plan.json                         the origin's, for the fork's number of epochs
    run.json                          last: where it is, the run is

With the origin's options, what comes after the version has the bits that it has in the origin.
"""

from collections.abc import Iterable, Sequence

from estafeta.errors import Command, Gone, UsageError
from estafeta.functions.verbs.start import found, publish_spec
from estafeta.job.stopping import EpochRecord, judge
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import RunLayout, name_of
from estafeta.protocol.listing import epochs_in, version_of, versions_in
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import Snapshot, next_actions, read_epoch, take_snapshot
from estafeta.protocol.spec import Origin, Outcome, Plan, RunSpec
from estafeta.protocol.verbs import ForkVerb
from estafeta.store.store import Store


def fork(verb: ForkVerb, origin: RunFolder, invocation: Invocation) -> dict[str, object]:
    """Publish the new run, which begins with a version of `origin`, and set it going. Repeating it changes nothing.

    Returns:
        The names of the run and of the version, for the client.

    Raises:
        UsageError: There is no such version, or the new spec does not fit it.
        Conflict: The name of the new run is another's.
    """
    store, here, there = origin.store, origin.layout, RunLayout(verb.spec.run)
    snapshot = take_snapshot(origin)
    if snapshot.plan is None:
        raise UsageError(
            f"{origin.run} has not been prepared: there is no version yet",
            hint=f"wait until {Command('estafeta', 'status', origin.run)} shows a plan",
        )
    version = _resolve(verb.version, snapshot, origin)
    records = [r for e in sorted(epochs_in(store.list(here.epochs))) if (r := read_epoch(origin, e))]
    records = _judged([record for record in records if record.version <= version], verb.spec)
    needed = {version, records[-1].best_version if records else version}
    if not _are_there(needed, origin):
        raise _missing(needed, version, origin)
    _check(verb.spec, origin.spec, snapshot.plan, version)
    spec = verb.spec.model_copy(update={"origin": Origin(run=origin.run, token=origin.spec.token, version=version)})
    new = RunFolder(store, spec.run, spec)
    found(spec, store)
    try:
        _share(store, here, there, needed)
        if not _are_there(needed, new):
            raise Gone(f"{origin.run} has moved on")
    except Gone:
        store.remove_tree(there.root)
        raise _missing(needed, version, origin) from None
    for record in records:
        store.publish(there.epoch(record.epoch), [record.to_json()], spec.token)
    total_steps = snapshot.plan.steps_per_epoch * spec.epochs
    plan = snapshot.plan.model_copy(update={"token": spec.token, "total_steps": total_steps})
    store.publish(there.plan, [plan.to_json()], spec.token)
    publish_spec(spec, store)
    dispatch(next_actions(take_snapshot(new)), spec, invocation)
    return {"run": spec.run, "version": version}


def _resolve(wanted: str | int, snapshot: Snapshot, origin: RunFolder) -> int:
    """The version that is meant, whether it is there or not."""
    if isinstance(wanted, int):
        return wanted
    versions = _listed(origin)
    if wanted == "best":
        if snapshot.last_epoch is None:
            raise UsageError(f"{origin.run} has no best version yet: no epoch has ended", hint=versions)
        return snapshot.last_epoch.best_version
    if snapshot.outcome is None:
        raise UsageError(f"{origin.run} is still running, it has no final version yet", hint=versions)
    outcome = Outcome.model_validate_json(origin.store.read(origin.layout.outcome(snapshot.outcome)))
    version = snapshot.version if outcome.version is None else outcome.version
    if version is None:
        raise UsageError(
            f"{origin.run} ended before it had any weights, or they have been cleaned away", hint="start a new run"
        )
    return version


def _judged(records: Sequence[EpochRecord], spec: RunSpec) -> list[EpochRecord]:
    """The same epochs by the rule of a spec."""
    judged: list[EpochRecord] = []
    for record in records:
        judged.append(
            judge(
                spec.early_stopping,
                judged[-1] if judged else None,
                epoch=record.epoch,
                version=record.version,
                metrics=record.metrics,
                missed=record.missed,
                token=spec.token,
                now=record.ended_at,
            )
        )
    return judged


def _check(spec: RunSpec, origin: RunSpec, plan: Plan, version: int) -> None:
    """Refuse a spec that a version does not fit."""
    steps = plan.steps_per_epoch
    if version > steps * spec.epochs:
        raise UsageError(
            f"version {version} is beyond {spec.epochs} epochs of {steps} steps",
            hint=f"-o epochs={-(-version // steps)}",
        )
    if spec.update_rule.state_slots != origin.update_rule.state_slots:
        raise UsageError(
            f"{origin.run} has kept {_words(origin.update_rule.state_slots)} for its optimiser, "
            f"these options need {_words(spec.update_rule.state_slots)}",
            hint="leave them as they were, or start a new run",
        )


def _share(store: Store, here: RunLayout, there: RunLayout, needed: Iterable[int]) -> None:
    """Give the files that the fork begins with their names in it.

    Raises:
        Gone: One of the versions is not there (any more).
    """
    for name in sorted(store.list(here.weights)):
        if version_of(name) in (None, *needed):
            store.share(f"{here.weights}/{name}", f"{there.weights}/{name}")
    _share_all(store, here.code, there.code)


def _share_all(store: Store, here: str, there: str) -> None:
    store.make_directories(there)
    for name in store.list(here):
        if name.endswith(".py"):
            store.share(f"{here}/{name}", f"{there}/{name}")
        else:
            _share_all(store, f"{here}/{name}", f"{there}/{name}")


def _are_there(needed: Iterable[int], folder: RunFolder) -> bool:
    """Whether versions are complete in a run, with the optimiser's state: files are swept one by one."""
    layout, spec = folder.layout, folder.spec
    names = folder.store.list(layout.weights)
    paths = ((layout.version(version), layout.optimizer(version)) for version in needed)
    files = [(name_of(whole), name_of(state)) for whole, state in paths]
    has_state = all(state in names for whole, state in files if whole in names and spec.update_rule.state_slots)
    return has_state and versions_in(names, spec.workers).issuperset(needed)


def _missing(needed: set[int], version: int, origin: RunFolder) -> UsageError:
    there = versions_in(origin.store.list(origin.layout.weights), origin.spec.workers)
    what = f"version {version}"
    if version in there:
        what = f"version {max(needed - there, default=version)}, the best one at version {version}"
    return UsageError(f"{origin.run} does not have {what}, or does not have it any more", hint=_listed(origin))


def _listed(origin: RunFolder) -> str:
    """Which versions there are, as a hint."""
    there = sorted(versions_in(origin.store.list(origin.layout.weights), origin.spec.workers))
    return f"there are: {', '.join(map(str, there))}" if there else "there are none"


def _words(names: Sequence[str]) -> str:
    return " and ".join(names) or "nothing"
