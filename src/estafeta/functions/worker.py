"""The worker function: a rank computes its share of a round, publishes it, and looks whether the round is complete.

    invoked with (run, round, rank, leg)
      → contribution there already?  a duplicate: on to the last step
      → weights of the round's version → model
      → partial of the leg before → sums so far
      → micro-batch after micro-batch; when little time is left: publish the sums so far, invoke the next leg, leave
      → publish the contribution
      → list; if all ranks are there: claim the merge, invoke it
        (with a quorum: one rank that sees it complete waits until the others are late, and closes the round)

No rank waits here but that one. Lambda's retry or a duplicate delivery may repeat any step without changing a bit: the
contribution is a function of the weights, the seed, the round and the rank.
"""

from typing import Any, Literal

from estafeta.aws import library
from estafeta.errors import EstafetaError, Gone
from estafeta.functions.entry import invocation_of
from estafeta.functions.late_ranks import await_others, patience_of
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.ending import fail
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import claim_of, contribution_name
from estafeta.protocol.listing import ranks_in
from estafeta.protocol.run_folder import RunFolder, open_folder
from estafeta.protocol.snapshot import Merge, Work, is_current
from estafeta.protocol.spec import Failure, WorkerEvent
from estafeta.protocol.spending import Tab
from estafeta.residents.claim import take
from estafeta.residents.ending import Refusal


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Entry point on Lambda."""
    invocation = invocation_of(context)
    library.enter(invocation.store)
    return work(WorkerEvent.model_validate(event), invocation)


def work(event: WorkerEvent, invocation: Invocation) -> dict[str, Any]:
    """Carry out one event.

    The worker publishes an error that would come again as the run's end. It raises one that may pass (a full disk, a
    lost connection): Lambda retries the event, and gives it to `control` if that does not help.
    """
    if event.task == "probe":
        from estafeta.functions.verbs.probe import probe_torch

        return probe_torch(invocation)
    invocation.note(event.run, **event.model_dump(exclude={"run", "sent_at", "lead_s", "share_s", "expires_at"}))
    folder = open_folder(invocation.store, event.run)
    tab = Tab("worker", folder.spec, invocation)
    try:
        if event.task == "prepare":
            from estafeta.training.prepare import prepare

            done = prepare(folder, invocation, tab)
        elif event.task == "reside":
            done = _reside(event, folder, invocation, tab)
        else:
            done = contribute(event, folder, invocation, tab)
    except Gone as error:
        if event.task in ("prepare", "reside") or is_current(event.round, folder):
            raise
        done = f"left: {error}"
    except EstafetaError as error:
        done = f"failed: {error}"
        fail(folder, invocation, _failure(error, event))
    finally:
        tab.close()
    invocation.note_end(event.run, done)
    return {"done": done}


def _reside(event: WorkerEvent, folder: RunFolder, invocation: Invocation, tab: Tab) -> str:
    """Run one leg of a resident rank. torch is imported only after the leg has been claimed."""
    leg = take(event, folder, invocation)
    if isinstance(leg, Refusal):
        return leg.value
    from estafeta.residents.resident import reside

    return reside(leg, folder, invocation, tab)


def contribute(event: WorkerEvent, folder: RunFolder, invocation: Invocation, tab: Tab) -> str:
    """Publish a rank's contribution to a round, or as much of it as the time allows; return what it did, for the log.

    Raises:
        Gone: The run has moved past the round.
        UserCodeError: The job's code raised.
        NotFinite: The loss or the gradient is NaN or infinite.
    """
    store, layout, spec, round_ = folder.store, folder.layout, folder.spec, event.round
    began, done = store.clock.monotonic(), "a duplicate"
    if contribution_name(round_, event.rank) not in store.list(layout.contributions):
        reached = _publish_share(event, folder, invocation, tab)
        if reached == "overtaken":
            return "left: a duplicate has got to the next leg"
        if reached == "unfinished":
            following = Work(round_, event.rank, event.leg + 1)
            dispatch((following,), spec, invocation)
            return f"handed over to leg {following.leg}"
        done = "contributed"
        if spec.closes_early and not event.leg:
            patience_of(folder, invocation).note(store.clock.monotonic() - began)
    # Each rank publishes first and lists afterwards, so at least the last rank sees the round complete.
    ranks = ranks_in(store.list(layout.contributions), round_)
    if spec.closes_early and len(ranks) < spec.workers and not invocation.is_alone:
        ranks = await_others(round_, event.rank, began, folder, invocation)
    if len(ranks) == spec.workers and store.claim(layout.legs, claim_of(round_), generation=0, token=invocation.token):
        dispatch((Merge(round_),), spec, invocation)
        done += ", invoked the merge"
    return done


def _publish_share(
    event: WorkerEvent, folder: RunFolder, invocation: Invocation, tab: Tab
) -> Literal["complete", "unfinished", "overtaken"]:
    """Go on with a rank's share; publish all of it, or how far this leg has got.

    It is `overtaken` if another delivery of this leg was first to publish how far it got. That delivery invokes the
    next leg: if both did, duplicates would double with every leg.
    """
    from estafeta.training.session import open_session
    from estafeta.training.share import Share

    store, layout, round_, rank = folder.store, folder.layout, event.round, event.rank
    session = open_session(folder, invocation)
    deadline = Deadline(invocation.remaining_s, session.transfer_s, store.clock.monotonic)
    with deadline.transfer():
        session.load(folder, event.version)
    share = Share.of(session, folder, round_, rank)
    if event.leg:
        share.resume(store, layout.partial_of(round_, rank, event.leg))
    share.work(deadline)
    complete = share.is_complete
    path = layout.contribution(round_, rank) if complete else layout.partial_of(round_, rank, event.leg + 1)
    mine = share.publish(store, path, invocation.token, deadline, tab)
    return "complete" if complete else "unfinished" if mine else "overtaken"


def _failure(error: EstafetaError, event: WorkerEvent) -> Failure:
    rank = None if event.task == "prepare" else event.rank
    round_ = event.round.name if event.task in ("train", "valid") else error.round
    place = "" if rank is None else f" on rank {rank}"
    return Failure(
        reason=type(error).__name__,
        message=f"{str(error).removesuffix('.')}{place}{f' in round {round_}' if round_ else ''}",
        hint=error.hint,
        exit_code=error.exit_code,
        rank=rank,
        round=round_,
        traceback=getattr(error, "traceback", ""),
    )
