"""How a resident rank gets back to the newest version: from the newest saved one, and the contributions since then.

The ranks keep their contributions until all have saved a later version: they are the redo log. Taking the same steps
from the same contributions gives the same bits.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from estafeta import waiting
from estafeta.errors import Gone
from estafeta.protocol.layout import Round
from estafeta.protocol.listing import messages_in, versions_in
from estafeta.protocol.partition import Slice, slices_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.step import Step
from estafeta.protocol.totals import Totals
from estafeta.protocol.weights import Weights, read_state, read_weights
from estafeta.residents.exchange import Exchange, is_stand_in
from estafeta.store.tensorfile import Array


def restore(folder: RunFolder, rank: int, parameters: Array, exchange: Exchange) -> tuple[Weights, int]:
    """Restore the newest version: the newest saved one, and the steps since then that all ranks have contributed to.

    The parameters go into the given float32[P].

    Returns:
        The version, with the state of the rank's slice; and the version that was saved.

    Raises:
        Gone: The listed files were swept again, in each attempt.
    """
    spec, plan = folder.spec, folder.plan
    slices = slices_of(spec, plan)
    own = slices[rank] if plan.topology == "sharded" else slices[0]
    names = spec.update_rule.state_slots
    for attempt in range(waiting.RESTORE_ATTEMPTS):
        try:
            saved = max(versions_in(folder.store.list(folder.layout.weights), spec.workers))
            weights = read_weights(folder, saved, parameters)
            state_of = partial(read_state, folder, saved, names=names) if names else _no_state
            weights.state = state_of(own)
            redo = _Redo(folder, exchange, state_of)
            redo.to(weights, own, _reached(folder, rank, saved))
            return weights, saved
        except Gone:
            if attempt == waiting.RESTORE_ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


class _Redo:
    """Takes steps again, from contributions, slice by slice: so it holds the state of one slice only."""

    def __init__(self, folder: RunFolder, exchange: Exchange, state_of: Callable[[Slice], dict[str, Array]]) -> None:
        self._plan, self._exchange, self._state_of = folder.plan, exchange, state_of
        self._step = Step(folder.spec, folder.plan)

    def to(self, weights: Weights, own: Slice, version: int) -> None:
        """Bring all parameters, and the state of one slice, to a later version, in place.

        Raises:
            Gone: A rank has retired a contribution: there must be a newer saved version.
        """
        rounds = range(weights.version, version)
        if not rounds:
            return
        scales = self._scales(rounds)
        for index, part in enumerate(self._step.slices):
            state = weights.state if part == own else self._state_of(part)
            view = Weights(weights.version, weights.parameters, {}, state)
            for view.version in rounds:
                with self._exchange.gather(Round(view.version, "train"), wait=False) as gathered:
                    self._step.take(view, gathered, index, scales[view.version])
        for number in rounds:
            weights.advance(self._totals(number), self._plan)

    def _scales(self, rounds: Sequence[int]) -> dict[int, float]:
        step = self._step
        if not step.clips:
            return dict.fromkeys(rounds, 1.0)
        scales: dict[int, float] = {}
        for number in rounds:
            with self._exchange.gather(Round(number, "train"), wait=False) as gathered:
                squares = [step.squares(gathered, index) for index in range(len(step.slices))]
            scales[number] = step.scale(np.concatenate(squares))
        return scales

    def _totals(self, number: int) -> Totals:
        with self._exchange.gather(Round(number, "train"), wait=False) as gathered:
            return gathered.totals


def _no_state(_part: Slice) -> dict[str, Array]:
    return {}


def _reached(folder: RunFolder, rank: int, saved: int) -> int:
    """Return the newest version that all ranks are known to have had, without a gap, since a saved version.

    They have contributed to a round that starts from it, perhaps only to the scoring of it. The rank does not redo but
    does the round that makes the next version: the others may still wait for its slice of that, or for its norms.
    Slices and norms of earlier rounds may be retired: those rounds are over for everybody.

    The rank also does the rounds that it missed: perhaps it was to save after one of them. The others take that version
    for saved as soon as the rank itself contributes to a later round.
    """
    version, store, layout = saved, folder.store, folder.layout
    listings = [store.list(layout.outbox(each)) for each in range(folder.spec.workers)]
    contributed = [messages_in(names, "gradient") | messages_in(names, "scores") for names in listings]
    while all(version + 1 in versions for versions in contributed):
        version += 1
    while version > saved and is_stand_in(store, layout.message(rank, "gradient", version)):
        version -= 1
    return version
