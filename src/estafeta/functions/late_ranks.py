"""How one worker of topology `merge` waits for late ranks, and closes the round without them.

A worker that sees a quorum of contributions stays until the other ranks are late, and publishes stand-ins for them.
Then the round is complete, for this worker and for each that lists after it. All goes on as if all ranks had been in
time. If the worker dies, Lambda's retry waits instead; if the event is lost, the last rank completes the round.
"""

from math import inf

from estafeta import waiting
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round, closing_of, contribution_name
from estafeta.protocol.listing import ranks_in
from estafeta.protocol.message import form_of, glance
from estafeta.protocol.patience import Patience
from estafeta.protocol.quorum import may_miss, new_patience
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import is_current
from estafeta.protocol.weights import attendance_at
from estafeta.store.arrivals import is_local


def await_others(round_: Round, rank: int, began: float, folder: RunFolder, invocation: Invocation) -> frozenset[int]:
    """Wait for the late ranks, if a quorum is there and no other worker waits; then close the round without them.

    `rank` has contributed to the round; its work began at `began`, by the store's clock. It does not stay longer than
    the time of the invocation allows. It returns the ranks of which a contribution or a stand-in is there now.

    Raises:
        Gone: The run has moved past the round.
    """
    store, layout, spec = folder.store, folder.layout, folder.spec
    everybody = frozenset(range(spec.workers))
    there = ranks_in(store.list(layout.contributions), round_)
    left_s = patience_of(folder, invocation).limit_s - (store.clock.monotonic() - began)
    if len(there) < (spec.quorum or spec.workers) or left_s == inf or not _may_close(round_, everybody - there, folder):
        return there
    if not store.claim(layout.legs, closing_of(round_), generation=0, token=invocation.token):
        return there
    own = contribution_name(round_, rank)
    over = store.wait(
        layout.contributions,
        lambda names: own not in names or ranks_in(names, round_) == everybody,
        timeout_s=max(0.0, min(left_s, invocation.remaining_s() - waiting.CLOSING_RESERVE_S)),
    )
    if over is None:
        there = ranks_in(store.list(layout.contributions), round_)
        # This look comes after the listing: when a round is over, the merge may have swept contributions of ranks that
        # were in time.
        is_open = is_current(round_, folder)
        if is_open and any(_rows(round_, member, folder) for member in there):  # there is no mean of none
            form = form_of(folder.plan, round_.phase)
            for late in sorted(everybody - there):
                content = form.stand_in(round_.version, late, invocation.token)
                store.publish(layout.contribution(round_, late), content, invocation.token)
    return ranks_in(store.list(layout.contributions), round_)


def patience_of(folder: RunFolder, invocation: Invocation) -> Patience:
    """Return what this environment has learnt of how long the shares of a run take."""
    memory = invocation.warm.of(folder.spec.token)
    if memory.patience is None:
        local = is_local(folder.store, folder.layout.contributions)
        memory.patience = new_patience(is_local=local)
    return memory.patience


def _may_close(round_: Round, missing: frozenset[int], folder: RunFolder) -> bool:
    return may_miss(folder.spec, folder.plan, round_, missing, attendance_at(folder, round_.version))


def _rows(round_: Round, rank: int, folder: RunFolder) -> int:
    return folder.store.reading(folder.layout.contribution(round_, rank), lambda reader: glance(reader).rows)
