"""When resident ranks save the version that they are at, what they remove then, and how one gets back to it.

Saving is for those who come later: the next leg, a rank in place of a lost one, the export. What lies between two saved
versions is computed anew from the contributions, which are kept as long as they are needed for that: they are the redo
log. So how often is saved is a question of cost alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np

from estafeta.errors import Gone
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.listing import messages_in, pieces_in, version_of, versions_in
from estafeta.protocol.message import Wish
from estafeta.protocol.partition import Slice, slices_of
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.step import Step
from estafeta.protocol.totals import Totals
from estafeta.protocol.weights import Weights, publish_piece, publish_weights, read_state, read_weights
from estafeta.residents.exchange import Exchange, is_stand_in
from estafeta.residents.replica import Replica
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array

SHARE = 0.02
"""Most of the time that may go into saving."""

FIRST_AFTER = 10
"""Rounds before the first saving, whose cost is not known yet."""

MOST_REDO = 500
"""Most rounds between two savings: a polled directory should not have many more names, nor a lost rank more to redo."""

MOST_REDO_BYTES = 1 << 29
"""Most bytes of a rank's contributions between two savings, where its files are filled again: each that is kept instead
takes new pages, which the system has to clear, and to write to the disk. With large models that costs more than saving
more often does."""

ATTEMPTS = 10
"""How often restoring begins anew because what it was about to read has been replaced by something newer."""


class Saver:
    """Saves one rank's part of versions, and removes what that makes unnecessary.

    Args:
        store: The store.
        layout: The run's paths.
        plan: The run's plan.
        rank: This rank.
        workers: World size.
        token: Of what is published.
        saved: The newest saved version.
        recycles: Whether contributions that are not needed any more are filled again.

    Attributes:
        redo_from: The newest version that all ranks are known to have saved.
        cost_s: The longest that saving took; None if that is not known yet.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        plan: Plan,
        *,
        rank: int,
        workers: int,
        token: str,
        saved: int,
        recycles: bool,
    ) -> None:
        self.redo_from = saved
        self.cost_s: float | None = None
        self._store, self._layout, self._plan = store, layout, plan
        self._rank, self._workers, self._token = rank, workers, token
        self._newest = saved
        self._most_redo = min(MOST_REDO, max(1, MOST_REDO_BYTES // (4 * plan.size))) if recycles else MOST_REDO

    def wish(self, version: int, round_s: float) -> Wish:
        """Whether it would be cheap enough, by now, to save; it is done when all ranks wish it."""
        rounds = version + 1 - self._newest
        due = rounds >= FIRST_AFTER if self.cost_s is None else rounds * round_s * SHARE >= self.cost_s
        return Wish.CHECKPOINT if due or rounds >= self._most_redo else Wish.NONE

    def save(self, replica: Replica) -> None:
        """Publish this rank's part of the replica's version; if each rank has all of it, one does it in turn."""
        weights = replica.weights
        if weights.version <= self._newest:
            return
        began = self._store.clock.monotonic()
        if self._plan.topology == "sharded":
            publish_piece(
                self._store,
                self._layout,
                weights,
                replica.own,
                rank=self._rank,
                workers=self._workers,
                token=self._token,
            )
        elif weights.version % self._workers == self._rank:
            publish_weights(self._store, self._layout, weights, self._token)
        self._newest = weights.version
        self.cost_s = max(self.cost_s or 0.0, self._store.clock.monotonic() - began)

    def is_pending(self, version: int) -> bool:
        """Whether a version was saved by this rank, and others may not have done so yet."""
        return self._newest == version > self.redo_from

    def missing(self, version: int, names: Collection[str]) -> list[int]:
        """Ranks that have not published their part of a version, by a listing of `weights/`."""
        if version in versions_in(names, self._workers):
            return []
        if self._plan.topology == "sharded":
            return [rank for rank in range(self._workers) if rank not in pieces_in(names, version)]
        return [version % self._workers]

    def sweep(self, version: int, best: int | None) -> None:
        """Remove this rank's part of older versions, when all ranks have begun the round of `version`.

        A rank begins a round after it has saved what was to be saved before it, so by now all have.
        """
        if self._newest <= self.redo_from or version < self._newest:
            return
        self.redo_from = self._newest
        names = self._store.list(self._layout.weights)
        self._store.sweep(
            self._layout.weights,
            [
                name
                for name in names
                if (v := version_of(name)) is not None and v < self.redo_from and v != best and self._is_own(name, v)
            ],
        )

    def _is_own(self, name: str, version: int) -> bool:
        pieces = pieces_in([name], version)
        return self._rank in pieces if pieces else version % self._workers == self._rank


def restore(
    spec: RunSpec, plan: Plan, rank: int, parameters: Array, exchange: Exchange, invocation: Invocation
) -> tuple[Weights, int]:
    """The newest version that can be had: the newest saved one, and the steps that all ranks have contributed to since.

    Args:
        spec: The run's spec.
        plan: The run's plan.
        rank: Whose slice of the optimiser's state is wanted.
        parameters: float32[P]; gets the parameters.
        exchange: Has the contributions.
        invocation: This invocation.

    Returns:
        The version, its state being of the rank's slice; and the version that was saved.

    Raises:
        Gone: What is listed is gone again, each time.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    slices = slices_of(spec, plan)
    own = slices[rank] if plan.topology == "sharded" else slices[0]
    names = spec.update_rule.state_slots
    for attempt in range(ATTEMPTS):
        try:
            saved = max(versions_in(store.list(layout.weights), spec.workers))
            weights = read_weights(store, layout, saved, parameters)
            state_of = partial(read_state, store, layout, saved, names=names) if names else _no_state
            weights.state = state_of(own)
            redo = Redo(spec, plan, exchange, state_of)
            redo.to(weights, own, _reached(store, layout, rank, spec.workers, saved))
            return weights, saved
        except Gone:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


class Redo:
    """Takes steps anew, from contributions, slice by slice: so the memory is that of one slice's state.

    Args:
        spec: The run's spec.
        plan: The run's plan.
        exchange: Has the contributions.
        state_of: Reads the optimiser's state of a slice, as it was saved.
    """

    def __init__(
        self, spec: RunSpec, plan: Plan, exchange: Exchange, state_of: Callable[[Slice], dict[str, Array]]
    ) -> None:
        self._plan, self._exchange, self._state_of = plan, exchange, state_of
        self._step = Step(spec, plan)

    def to(self, weights: Weights, own: Slice, version: int) -> None:
        """Bring all parameters, and the state of one slice, to a later version, in place.

        Raises:
            Gone: A contribution has been retired: there must be a newer saved version.
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


def _reached(store: Store, layout: RunLayout, rank: int, workers: int, saved: int) -> int:
    """The newest version that all ranks are known to have had, without a gap, since a saved version.

    They have contributed to a round that starts from it, be it only the scoring of it. The round that makes the next
    version is not redone but done: the others may still wait for this rank's slice of that, or for its norms. Slices
    and norms of earlier rounds may have been retired: those are over for everybody.

    Rounds that a rank has missed are not redone but done, too: perhaps it was to save after one of them, and the others
    take it for saved as soon as the rank itself contributes to a later one.
    """
    version = saved
    listings = [store.list(layout.outbox(each)) for each in range(workers)]
    contributed = [messages_in(names, "gradient") | messages_in(names, "scores") for names in listings]
    while all(version + 1 in versions for versions in contributed):
        version += 1
    while version > saved and is_stand_in(store, layout.message(rank, "gradient", version)):
        version -= 1
    return version
