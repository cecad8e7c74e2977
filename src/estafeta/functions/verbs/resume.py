"""The verbs `stop` and `resume`: an end that can be taken back."""

from typing import Any

from estafeta.errors import Command, UsageError
from estafeta.functions.verbs.status import brief
from estafeta.protocol.ending import RESERVE_BYTES
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import name_of
from estafeta.protocol.limits import limit_reached, limits_after, newest_limits, spent_so_far
from estafeta.protocol.listing import all_calls_in, limits_in
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES, Snapshot, current_round, next_actions, take_snapshot, takeovers
from estafeta.protocol.verbs import ResumeVerb
from estafeta.residents.marks import send_for


def stop(folder: RunFolder, invocation: Invocation) -> dict[str, Any]:
    """Ask a run to stop, and have its weights exported; no function need be at work. The answer is that of `brief`."""
    if (snapshot := take_snapshot(folder)).outcome is None:
        folder.store.publish(folder.layout.stop, [invocation.token.encode()], invocation.token)
        if snapshot.stop_requested:  # residents see a request by themselves; a second one says that none of them did
            send_for(takeovers(take_snapshot(folder)), folder, invocation)
        else:
            dispatch(next_actions(take_snapshot(folder)), folder.spec, invocation)
    return brief(folder)


def resume(verb: ResumeVerb, folder: RunFolder, invocation: Invocation) -> dict[str, Any]:
    """Set a run going again from its newest version: after a stop, a failure, or the loss of its last event.

    The answer is that of `brief`.

    Raises:
        UsageError: The run is done, was cleaned, or is at one of its limits.
    """
    snapshot = take_snapshot(folder)
    if snapshot.outcome == "done":
        raise UsageError(f"{folder.run} is done", hint=f"{Command('estafeta', 'status', folder.run)}")
    if snapshot.outcome and snapshot.plan and snapshot.version is None:
        raise UsageError(
            f"{folder.run} was cleaned: it has its exports, but no weights to go on from", hint="start a new run"
        )
    _renew_limits(verb, snapshot, folder, invocation.token)
    _reopen(folder, invocation.token)
    send_for(takeovers(take_snapshot(folder)), folder, invocation)  # all functions may be dead, or may only seem to be
    return brief(folder)


def _renew_limits(verb: ResumeVerb, snapshot: Snapshot, folder: RunFolder, token: str) -> None:
    """Publish the limits that hold from now on.

    Raises:
        UsageError: One of them is reached already.
    """
    store, layout = folder.store, folder.layout
    names = store.list(layout.root)
    limits = limits_after(newest_limits(folder, names), verb.limits, token, store.clock.time())
    if snapshot.plan and snapshot.version is not None:
        following = current_round(snapshot.plan, snapshot.version, snapshot.last_epoch)
        spent_usd = spent_so_far(folder, snapshot.version, snapshot.last_epoch)
        if why := limit_reached(limits, following, spent_usd=spent_usd, now=limits.since):
            hint = "raise it, as with --max-cost 5, or lift it: --max-cost none"
            raise UsageError(f"{folder.run} is at a limit: {why}", hint=hint)
    number = max(limits_in(names), default=0) + 1
    store.publish(layout.limits(number), [limits.to_json()], token)


def _reopen(folder: RunFolder, token: str) -> None:
    """Put the markers of a run's end out of the way; each outcome stays under a name with a number."""
    store, layout, workers = folder.store, folder.layout, folder.spec.workers
    names = store.list(layout.root)
    ended = [state for state in OUTCOMES if f"{state}.json" in names]
    if not ended:
        return
    # The reserve comes first: a full disk can refuse this step alone, and then the run stays as it has ended.
    store.publish(layout.reserve, [token.encode().ljust(RESERVE_BYTES)], token)
    outboxes = [layout.outbox(rank) for rank in range(workers)] if "stopped" in ended else []
    for place in (*outboxes, layout.export("best"), layout.export("final")):  # a stopped run has saved everything
        store.sweep(place, store.list(place))
    store.sweep(layout.root, [name_of(path) for path in (layout.stop, layout.ending, layout.watch)])
    store.sweep(layout.legs, all_calls_in(store.list(layout.legs)))  # attempts are counted anew
    for state in ended:
        earlier = sum(name.startswith(f"{state}-") for name in names)
        store.move(layout.outcome(state), layout.outcome(f"{state}-{earlier + 1:02d}"))
