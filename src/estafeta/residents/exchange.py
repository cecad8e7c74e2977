"""The exchange: vectors from each resident rank to all others, round after round, by files.

    outgoing ─ put … put ─ publish ─┐
                                    ├─▶ gather ─▶ add_up, slice by slice
    the same on all other ranks ────┘                 │
                                                      ▼
                         publish_slice ─▶ fetch_slices     (sharded)

The exchange knows flat vectors, ranks and the store; never a model, an optimiser or a reason. Each rank publishes in a
directory of its own. So no rank waits for a directory that everybody changes.

A sum is a function of what the ranks have published: the exchange adds element by element in rank order, in any slices.
It holds one chunk of memory, whatever the number of ranks.

A rank publishes for the round of version *v* only when it has that version. So a rank that has gathered the round knows
that all ranks are done with everything before it, and may retire that.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import numpy as np

from estafeta.errors import Corrupt, Gone
from estafeta.protocol.layout import Round, RunLayout, message_name
from estafeta.protocol.listing import messages_in, rank_of_outbox
from estafeta.protocol.message import CHUNK, FIXED_BYTES, TOKEN_BYTES, Form, Head, Kind, glance, kind_of
from estafeta.protocol.partition import Slice
from estafeta.protocol.quorum import Closing
from estafeta.protocol.spec import Slot
from estafeta.residents.gathered import Gathered, Source, gone_if_stale
from estafeta.residents.outgoing import Outgoing
from estafeta.store.arrivals import Arrivals
from estafeta.store.drafts import Draft, Drafts
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array
from estafeta.store.vectors import digest

_NAMES = {Kind.GRADIENT: "gradient", Kind.SCORES: "scores", Kind.SLICE: "slice", Kind.NORMS: "norms"}


class Exchange:
    """One rank's end of the exchange.

    Args:
        slices: How the vector is cut among the ranks; one slice if no rank has a part of its own.
        sums: Names of the sums.
        token: The writer's token; at most 64 bytes.
        alarm: The exchange calls it now and then while it waits, with the ranks that are missing. It raises to give up.

    Attributes:
        arrivals: Waits for messages, and counts the looks.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        *,
        rank: int,
        workers: int,
        size: int,
        slices: Sequence[Slice],
        sums: Sequence[str],
        buffers: Sequence[Slot],
        token: str,
        alarm: Callable[[Collection[int]], None],
    ) -> None:
        if len(token) > TOKEN_BYTES:
            raise ValueError(f"The token {token!r} does not fit a message")
        self._store, self._layout = store, layout
        self._rank, self._workers, self._token = rank, workers, token
        self._slices, self._sums = slices, tuple(sums)
        self._outbox = layout.outbox(rank)

        def missing(paths: Sequence[str]) -> None:
            alarm([rank_of_outbox(path) for path in paths])

        self.arrivals = Arrivals(store, [layout.outbox(r) for r in range(workers)], missing, workers)
        reuse = self.arrivals.is_local
        self._gradient_form = Form(len(slices), len(self._sums), buffers, size)
        self._score_form = Form(0, len(self._sums))
        self._slice_forms = [Form(1, count=len(part)) for part in slices]
        self._gradients = Drafts(store, self._outbox, reuse=reuse)
        self._parts = Drafts(store, self._outbox, reuse=reuse)
        self._scratch: Array = np.empty(CHUNK, np.float32)
        self._published: dict[Kind, dict[int, Draft | None]] = {kind: {} for kind in Kind}
        names = store.list(self._outbox)  # earlier legs of this rank have left messages here
        for kind, name in _NAMES.items():
            self._published[kind] = dict.fromkeys(messages_in(names, name))

    # Contributions

    def has_contributed(self, round_: Round) -> bool:
        """Whether this leg or an earlier one has published this rank's contribution to a round."""
        return round_.version in self._published[kind_of(round_.phase)]

    def is_closed(self, round_: Round) -> bool:
        """Look whether the contribution has its name by now; another rank may have closed the round with a stand-in."""
        kind = kind_of(round_.phase)
        if self._store.exists(self._layout.message(self._rank, _NAMES[kind], round_.version)):
            self._published[kind].setdefault(round_.version, None)
        return self.has_contributed(round_)

    def outgoing(self) -> Outgoing:
        """Return a contribution to a train round, to be filled."""
        return Outgoing(self._gradients.take(), self._gradient_form.vector_at, self._slices)

    def drop(self, outgoing: Outgoing) -> None:
        """Give back a contribution that this rank will not publish."""
        self._gradients.give_back(outgoing.draft)

    def contribute(self, round_: Round, outgoing: Outgoing | None, **head: Any) -> bool:
        """Publish a contribution; return whether it is this one, or another generation of this rank was first.

        `outgoing` is the vector of a train round; it is None if this rank has no rows in it, or in a valid round.
        `head` is the rest of the head, as in `message.Head`: `rows`, `parts`, `wishes`, `round_s`, `sums`, `buffers`.
        """
        kind = kind_of(round_.phase)
        form = self._gradient_form if kind is Kind.GRADIENT else self._score_form
        if outgoing is None:
            return self._publish_small(kind, round_.version, form, empty=True, **head)
        packed = form.head()
        form.pack(
            packed, kind, version=round_.version, rank=self._rank, token=self._token, digests=outgoing.digests(), **head
        )
        outgoing.close(packed)
        return self._publish(kind, round_.version, self._gradients, outgoing.draft)

    def gather(self, round_: Round, *, wait: bool = True, closing: Closing | None = None) -> Gathered:
        """Open the contributions of all ranks to a round.

        Without `wait` the caller has seen them in a listing. `closing` says when to publish stand-ins for the missing
        ranks; None: never.

        Raises:
            Corrupt: A contribution is damaged.
            Gone: Its writer has retired a contribution: this rank was left behind.
        """
        kind = kind_of(round_.phase)
        form = self._gradient_form if kind is Kind.GRADIENT else self._score_form
        paths = [self._layout.message(rank, _NAMES[kind], round_.version) for rank in range(self._workers)]
        if closing is not None:
            late = partial(self._close, closing, form, round_, paths)
            expected_s = 0.0 if self.arrivals.is_local else closing.expected_s
            readers = self.arrivals.collect(paths, late, expected_s)
        else:
            readers = self.arrivals.collect(paths) if wait else self.arrivals.open(paths)
        try:
            sources = [
                Source(
                    *self._read(form, reader, path, kind, round_.version, rank),
                    reader,
                    form.vector_at,
                    partial(self._unfit, path),
                )
                for rank, (reader, path) in enumerate(zip(readers, paths, strict=True))
            ]
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        return Gathered(sources, self._sums, self._slices, self._scratch)

    def _close(
        self, closing: Closing, form: Form, round_: Round, paths: Sequence[str], found: Mapping[str, Reader]
    ) -> float:
        """Close a train round without the missing ranks, if it is time; see `arrivals.Late`."""
        left_s = closing.left_s(len(found))
        if left_s > 0:
            return left_s
        missing = [rank for rank, path in enumerate(paths) if path not in found]
        # The mean is over the rows of the ranks that are there, and a rank need not have any.
        if not any(form.read(reader)[0].rows for reader in found.values()) or not closing.allows(missing):
            return inf
        for rank in missing:
            self._store.publish(paths[rank], form.stand_in(round_.version, rank, self._token), self._token)
        return 0.0

    # Norms of the slices of the mean gradient

    def share_norms(self, version: int, sums: Array, lengths: Sequence[int]) -> Array:
        """Publish the sums of squares of this rank's slice, and return those of all ranks, one after the other.

        The sums are float64; `lengths` says how many each rank has.
        """
        if not self._is_published(Kind.NORMS, version):
            self._publish_small(Kind.NORMS, version, Form(0, len(sums)), sums=sums.tolist())
        ranks = [rank for rank, length in enumerate(lengths) if length]
        forms = {rank: Form(0, lengths[rank]) for rank in ranks}
        return np.concatenate([np.array(head.sums) for _, (head, _, _) in self._fetch(Kind.NORMS, version, forms)])

    # Slices of the next version

    def publish_slice(self, version: int, parameters: Array) -> None:
        """Publish this rank's slice of a version's parameters (float32[P])."""
        own = self._slices[self._rank]
        if not len(own) or self._is_published(Kind.SLICE, version):
            return
        values, form, draft = parameters[own.first : own.last], self._slice_forms[self._rank], self._parts.take()
        packed = form.head()
        form.pack(packed, Kind.SLICE, version=version, rank=self._rank, token=self._token, digests=(digest(values),))
        draft.write([packed, values.data], 0)
        self._publish(Kind.SLICE, version, self._parts, draft)

    def fetch_slices(self, version: int, parameters: Array) -> None:
        """Read all other ranks' slices of a version into `parameters`, float32[P].

        Raises:
            Corrupt, Gone: As `gather`.
        """
        others = {
            rank: self._slice_forms[rank]
            for rank, part in enumerate(self._slices)
            if rank != self._rank and len(part)  # no rank publishes an empty slice, and none waits for it
        }

        for rank, (head, vector, reader) in self._fetch(Kind.SLICE, version, others):
            part = self._slices[rank]
            values = parameters[part.first : part.last]
            if vector is None:
                try:
                    reader.readinto(values.data, others[rank].vector_at)
                except OSError as error:
                    gone_if_stale(error, rank, version)
                    raise
            else:
                values[:] = vector
            try:
                head.check_slice(0, digest(values))
            except Corrupt as error:
                raise self._unfit(self._layout.message(rank, _NAMES[Kind.SLICE], version), str(error)) from error

    # Housekeeping

    def retire(self, version: int, redo_from: int) -> None:
        """Take back what no rank can need any more, now that all ranks have `version`.

        The version `redo_from` is the newest that is saved with its optimiser state. A lost rank takes later steps anew
        from the contributions.
        """
        for kind, before in (
            (Kind.GRADIENT, min(version, redo_from)),
            (Kind.SCORES, version),
            (Kind.NORMS, version),
            (Kind.SLICE, version + 1),
        ):
            published = self._published[kind]
            for old in [v for v in published if v < before]:
                draft = published.pop(old)
                if draft is None:
                    self._store.sweep(self._outbox, [message_name(_NAMES[kind], old)])
                else:
                    (self._gradients if kind is Kind.GRADIENT else self._parts).give_back(draft)

    def close(self) -> None:
        """Close the files; what is published stays."""
        self._gradients.close()
        self._parts.close()
        self.arrivals.close()

    def _is_published(self, kind: Kind, version: int) -> bool:
        return version in self._published[kind]

    def _publish(self, kind: Kind, version: int, drafts: Drafts, draft: Draft) -> bool:
        mine = draft.publish(message_name(_NAMES[kind], version), self._token, FIXED_BYTES)
        if not mine:
            drafts.give_back(draft)
        self._published[kind][version] = draft if mine else None
        return mine

    def _publish_small(self, kind: Kind, version: int, form: Form, **head: Any) -> bool:
        packed = form.head()
        form.pack(packed, kind, version=version, rank=self._rank, token=self._token, **head)
        self._published[kind][version] = None
        return self._store.publish(self._layout.message(self._rank, _NAMES[kind], version), [packed], self._token)

    def _fetch(
        self, kind: Kind, version: int, forms: Mapping[int, Form]
    ) -> Iterator[tuple[int, tuple[Head, Array | None, Reader]]]:
        """Wait for one message of each rank in `forms`, and yield them one after the other, open."""
        paths = {rank: self._layout.message(rank, _NAMES[kind], version) for rank in forms}
        readers = self.arrivals.collect(list(paths.values()))
        try:
            for reader, (rank, path) in zip(readers, paths.items(), strict=True):
                yield rank, (*self._read(forms[rank], reader, path, kind, version, rank), reader)
        finally:
            for reader in readers:
                reader.close()

    def _read(
        self, form: Form, reader: Reader, path: str, kind: Kind, version: int, rank: int
    ) -> tuple[Head, Array | None]:
        try:
            head, vector = form.read(reader)
            head.check(kind, version, rank)
        except OSError as error:
            gone_if_stale(error, rank, version)
            raise
        except Corrupt as error:
            raise self._unfit(path, str(error)) from error
        return head, vector

    def _unfit(self, path: str, why: str) -> Gone | Corrupt:
        """Return the error for a file that does not fit: damaged if the store lists it, otherwise retired."""
        if self._store.exists(path):
            return Corrupt(f"{path} is damaged: {why}")
        return Gone(f"{path} has been retired")


def is_stand_in(store: Store, path: str) -> bool:
    """Whether a contribution is a stand-in of a rank that closed the round; one that is gone is none."""
    with suppress(Gone):
        return store.reading(path, lambda reader: glance(reader).is_stand_in)
    return False
