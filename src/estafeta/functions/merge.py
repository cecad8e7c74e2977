"""The merge function: combine the contributions of a round, publish the next version, invoke the workers again.

    invoked with (run, round)
      → snapshot → next_actions
      → a complete train round: sum in rank order, mean, clip, optimiser step → weights version + 1
      → a complete valid round: metrics, best version, verdict → the epoch's record
      → no round left, or the run is to stop: export the weights, end the run
      → workers are missing for the new round: invoke them, sweep what no step needs any longer, leave

The merge never imports torch: importing it would cost a cold function many seconds. Its memory is that of the
parameters, the gradient and the optimiser's state, plus one chunk, however many workers there are.

The next version is a function of this one, the contributions and the spec. If two merges work on one round, one of
them publishes; the other sees that and leaves.
"""

from typing import Any

from estafeta.errors import EstafetaError, Gone
from estafeta.functions.entry import invocation_of
from estafeta.job.optim import CHUNK
from estafeta.protocol.ending import fail, finish
from estafeta.protocol.epoch import conclude
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import Round
from estafeta.protocol.listing import round_of, version_of
from estafeta.protocol.run_folder import RunFolder, open_folder
from estafeta.protocol.snapshot import Finish, Merge, Snapshot, Work, is_current, maker_of, next_actions, take_snapshot
from estafeta.protocol.spec import Failure, MergeEvent, Plan, RunSpec
from estafeta.protocol.spending import Tab
from estafeta.protocol.step import Step
from estafeta.protocol.streamed import Streamed
from estafeta.protocol.weights import Weights, publish_weights, read_state, read_weights


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Entry point on Lambda."""
    return merge(MergeEvent.model_validate(event), invocation_of(context))


def merge(event: MergeEvent, invocation: Invocation) -> dict[str, Any]:
    """Carry out one event. The merge deals with errors as `worker.work` does."""
    invocation.note(event.run, **event.model_dump(exclude={"run"}))
    folder = open_folder(invocation.store, event.run)
    tab = Tab("merge", folder.spec, invocation)
    try:
        done = _proceed(folder, invocation, tab)
    except Gone as error:
        if is_current(round_of(event.round), folder):
            raise
        done = f"left: {error}"
    except EstafetaError as error:
        done = f"failed: {error}"
        failure = Failure(
            reason=type(error).__name__,
            message=str(error),
            hint=error.hint,
            exit_code=error.exit_code,
            round=event.round or None,
        )
        fail(folder, invocation, failure)
    finally:
        tab.close()
    invocation.note_end(event.run, done)
    return {"done": done}


def _proceed(folder: RunFolder, invocation: Invocation, tab: Tab) -> str:
    """Do what is next, again and again, until it is the workers' turn or the run has ended."""
    spec = folder.spec
    steps: list[str] = []
    while True:
        snapshot = take_snapshot(folder)
        actions = next_actions(snapshot)
        match actions:
            case (Merge(round_),):
                if not _merge_round(round_, snapshot, folder, invocation, tab):
                    return "left: another merge was first"
                steps.append(f"merged {round_.name}")
            case (Finish() as end,):
                finish(end, snapshot, folder, invocation.token)
                return ", ".join([*steps, f"finished: {end.why}"])
            case (Work(round_), *_):
                memory = invocation.warm.of(spec.token)
                if not steps and (memory.invoked == round_ or not _concluded(snapshot, folder, invocation)):
                    return "left: the workers are at it"
                dispatch(actions, spec, invocation)
                memory.invoked = round_
                _sweep(folder, snapshot)
                return ", ".join([*steps, f"invoked {len(actions)} workers"])
            case _:
                return ", ".join([*steps, "left: nothing to do"])


def _merge_round(round_: Round, snapshot: Snapshot, folder: RunFolder, invocation: Invocation, tab: Tab) -> bool:
    """Conclude a complete round; return whether this invocation was the first to do so."""
    if round_.phase == "valid":
        return _publish_epoch(round_, snapshot, folder, invocation, tab)
    spec, plan = folder.spec, folder.plan
    weights = _weights_at(round_.version, folder, invocation)
    memory = invocation.warm.of(spec.token)
    memory.weights = None  # they are ahead of the store until the merge has published the next version
    if not weights.state and spec.update_rule.state_slots:
        weights.state = read_state(folder, round_.version)
    if snapshot.last_epoch:  # the record knows what the valid round has cost
        weights.spent_usd = max(weights.spent_usd, snapshot.last_epoch.spent_usd)
    advance(weights, Streamed(folder, round_), spec, plan)
    spent_usd = tab.usd()
    weights.spent_usd += spent_usd
    mine = publish_weights(folder, weights, invocation.token)
    if mine:
        tab.said(spent_usd)
    else:
        weights.spent_usd -= spent_usd
    memory.weights = weights
    return mine


def advance(weights: Weights, contributions: Streamed, spec: RunSpec, plan: Plan) -> None:
    """Make the next version out of `weights`, in place, from the contributions of all ranks.

    Raises:
        Diverged: The new parameters are not finite; `weights` must not be used any more.
    """
    step = Step(spec, plan, CHUNK)
    scale = step.scale(step.squares(contributions, 0)) if step.clips else 1.0
    step.take(weights, contributions, 0, scale)
    weights.advance(contributions.totals, plan)


def _publish_epoch(round_: Round, snapshot: Snapshot, folder: RunFolder, invocation: Invocation, tab: Tab) -> bool:
    """Publish the record of the epoch that ended with the round's version."""
    plan, trained, spent_usd = folder.plan, _weights_at(round_.version, folder, invocation), tab.usd()
    valid = Streamed(folder, round_).totals if plan.valid_rows else None
    record = conclude(folder, snapshot.last_epoch, trained, valid, token=invocation.token, unsaid_usd=spent_usd)
    mine = folder.store.publish(folder.layout.epoch(record.epoch), [record.to_json()], invocation.token)
    if mine:
        tab.said(spent_usd)
    return mine


def _weights_at(version: int, folder: RunFolder, invocation: Invocation) -> Weights:
    """Return a version, from memory if this environment has made it."""
    memory = invocation.warm.of(folder.spec.token)
    if memory.weights is None or memory.weights.version != version:
        memory.weights = None  # two versions may not fit the memory
        memory.weights = read_weights(folder, version)
    return memory.weights


def _concluded(snapshot: Snapshot, folder: RunFolder, invocation: Invocation) -> bool:
    """Whether an earlier attempt at this event made what the current round starts from, and may not have invoked all.

    The current round need not be the event's: a merge goes on as long as the next round is complete already.
    """
    return maker_of(snapshot, folder) == invocation.token


def _sweep(folder: RunFolder, snapshot: Snapshot) -> None:
    """Remove what no later step can need.

    The run needs contributions until a version includes them. It needs the newest version, and the best one for the
    export. The merge keeps the version before the newest for functions that are still reading it. By now the run may be
    further than the snapshot, so the merge removes nothing that is not older than it.
    """
    store, layout, version = folder.store, folder.layout, snapshot.version or 0
    for directory in (layout.contributions, layout.partial, layout.legs):
        names = store.list(directory)
        store.sweep(directory, [n for n in names if (r := round_of(n)) and r.version < version])
    best = snapshot.last_epoch.best_version if snapshot.last_epoch else None
    names = store.list(layout.weights)
    store.sweep(
        layout.weights, [n for n in names if (v := version_of(n)) is not None and v < version - 1 and v != best]
    )
