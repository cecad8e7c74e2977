"""The exchange: vectors from each resident rank to all others, round after round, by files.

    outgoing ─ put … put ─ publish ─┐
                                    ├─▶ gather ─▶ add_up, slice by slice
    the same on all other ranks ────┘                 │
                                                      ▼
                         publish_slice ─▶ fetch_slices     (sharded)

It knows flat vectors, ranks and the store; never a model, an optimiser or a reason. Each rank publishes in a directory
of its own, so that publishing does not wait for a directory that everybody changes.

What it gives is a function of what was published: sums are taken element by element in rank order, whatever slices they
are taken in. What it holds is one chunk of memory, whatever the number of ranks.

A rank publishes for the round of version *v* only when it has that version. So who has gathered that round knows that
all ranks are done with everything before it, and may retire it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from estafeta.arrivals import Arrivals
from estafeta.drafts import Draft, Drafts
from estafeta.errors import Corrupt, Gone
from estafeta.files import Reader
from estafeta.layout import Round, RunLayout, message_name, messages_in
from estafeta.message import FIXED_BYTES, Form, Head, Kind
from estafeta.slices import Slice
from estafeta.spec import Slot
from estafeta.store import Store
from estafeta.tensorfile import Array
from estafeta.totals import Totals
from estafeta.vectors import digest

CHUNK = 65_536
"""Elements that are read and added at a time, 256 kB: the sum stays in the cache from one rank to the next."""

_NAMES = {Kind.GRADIENT: "gradient", Kind.SCORES: "scores", Kind.SLICE: "slice", Kind.NORMS: "norms"}


class Outgoing:
    """A contribution that is being written. Get one from `Exchange.outgoing`."""

    def __init__(self, draft: Draft, form: Form, slices: Sequence[Slice]) -> None:
        self.draft = draft
        self._form = form
        self._slices = slices
        self._digests: dict[int, list[tuple[int, int]]] = {}

    def put(self, number: int, first: int, values: Array) -> None:
        """Write a part of the vector. All parts are to be written; one may be written again.

        Args:
            number: Which part, to know it again.
            first: Its first element.
            values: float32[n], contiguous.

        Raises:
            OSError: It could not be written.
        """
        self.draft.write([values.data], self._form.vector_at + 4 * first)
        last = first + values.size
        self._digests[number] = [
            (index, digest(values[max(first, part.first) - first : min(last, part.last) - first]))
            for index, part in enumerate(self._slices)
            if first < part.last and part.first < last
        ]

    def digests(self) -> list[int]:
        """Of each slice."""
        digests = [0] * len(self._slices)
        for parts in self._digests.values():
            for index, value in parts:
                digests[index] ^= value
        return digests


class Gathered:
    """The contributions of all ranks to a round, open. Get them from `Exchange.gather`, and close them.

    Attributes:
        heads: By rank.
        totals: Rows, sums and buffers of all ranks.
        wishes: What any of the ranks would like to happen; `common`: what all of them would.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        readers: Sequence[Reader],
        *,
        names: Sequence[str],
        vector_at: int,
        slices: Sequence[Slice],
        scratch: Array,
    ) -> None:
        self.heads = heads
        self.totals = Totals()
        self.wishes, self.common = 0, ~0
        for head in heads:
            self.totals.add(head.rows, dict(zip(names, head.sums, strict=True)), head.buffers)
            self.wishes |= head.wishes
            self.common &= head.wishes
        self._readers = readers
        self._sources = [(head, reader) for head, reader in zip(heads, readers, strict=True) if head.rows]
        self._vector_at, self._slices, self._scratch = vector_at, slices, scratch
        self._seen: dict[tuple[int, int], int] = {}

    def add_up(self, index: int, first: int, out: Array) -> None:
        """Sum a chunk of a slice over the ranks, in rank order. A slice is to be gone through from its beginning.

        Args:
            index: Which slice.
            first: The chunk's first element.
            out: float32[n], n up to `CHUNK`, all within the slice; gets the sums.

        Raises:
            Corrupt: With the last chunk of a slice: the bytes of a rank are not those that were published.
        """
        scratch, is_last = self._scratch[: out.size], first + out.size == self._slices[index].last
        offset = self._vector_at + 4 * first
        for place, (head, reader) in enumerate(self._sources):
            values = scratch if place else out
            reader.readinto(values.data, offset)
            key = head.rank, index
            seen = self._seen.get(key, 0) ^ digest(values)
            if place:
                out += scratch
            if not is_last:
                self._seen[key] = seen
            elif seen != head.digests[index]:
                raise Corrupt(f"slice {index} of rank {head.rank}, version {head.version}, is not as it was published")

    def rewind(self) -> None:
        """Make ready to go through the slices once more."""
        self._seen.clear()

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Exchange:
    """One rank's end of the exchange.

    Args:
        store: The store.
        layout: The run's paths.
        rank: This rank.
        size: Elements of the vector.
        slices: How it is cut among the ranks; one slice if nobody has a part of his own.
        workers: World size.
        sums: Names of the sums.
        buffers: The model's buffers.
        token: Of this writer; at most 64 bytes.
        alarm: Called now and then while others are waited for. It raises to give up.

    Attributes:
        arrivals: Has the number of looks.
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
        alarm: Callable[[], None],
    ) -> None:
        self._store, self._layout = store, layout
        self._rank, self._workers, self._token = rank, workers, token
        self._slices, self._sums = slices, tuple(sums)
        self._outbox = layout.outbox(rank)
        self.arrivals = Arrivals(store, [layout.outbox(r) for r in range(workers)], alarm, workers)
        reuse = self.arrivals.is_local
        self._gradient_form = Form(len(slices), len(self._sums), buffers, size)
        self._empty_form = Form(len(slices), len(self._sums), buffers)
        self._score_form = Form(0, len(self._sums))
        self._slice_forms = [Form(1, count=len(part)) for part in slices]
        self._gradients = Drafts(store, self._outbox, reuse=reuse)
        self._parts = Drafts(store, self._outbox, reuse=reuse)
        self._scratch: Array = np.empty(CHUNK, np.float32)
        self._published: dict[Kind, dict[int, Draft | None]] = {kind: {} for kind in Kind}
        names = store.list(self._outbox)  # what earlier legs of this rank have left
        for kind, name in _NAMES.items():
            self._published[kind] = dict.fromkeys(messages_in(names, name))

    # Contributions

    def has_contributed(self, round_: Round) -> bool:
        """Whether this rank's contribution to a round is published, by this leg or an earlier one."""
        return round_.version in self._published[_kind_of(round_)]

    def outgoing(self) -> Outgoing:
        """A contribution to a train round, to be filled."""
        return Outgoing(self._gradients.take(), self._gradient_form, self._slices)

    def drop(self, outgoing: Outgoing) -> None:
        """Give a contribution back that will not be published."""
        self._gradients.give_back(outgoing.draft)

    def contribute(self, round_: Round, outgoing: Outgoing | None, **head: Any) -> bool:
        """Publish a contribution.

        Args:
            round_: To which round.
            outgoing: The vector of a train round; None if this rank has no rows in it, or it is a valid round.
            head: `rows`, `wishes`, `round_s`, `sums`, `buffers`, as in `message.Head`.

        Returns:
            Whether the published contribution is this one; if not, another incarnation of this rank was first.
        """
        kind = _kind_of(round_)
        if outgoing is None:
            form = self._empty_form if kind is Kind.GRADIENT else self._score_form
            return self._publish_small(kind, round_.version, form, **head)
        form = self._gradient_form
        packed = form.head()
        form.pack(packed, kind, version=round_.version, rank=self._rank, token=self._token,
                  digests=outgoing.digests(), **head)  # fmt: skip
        return self._publish(kind, round_.version, self._gradients, outgoing.draft, packed)

    def gather(self, round_: Round, *, wait: bool = True) -> Gathered:
        """The contributions of all ranks to a round.

        Args:
            round_: Which round.
            wait: Wait until they are there; otherwise they have been listed, and must be.

        Raises:
            Corrupt: One of them is damaged.
            Gone: One of them has been retired: this rank was left behind.
        """
        kind = _kind_of(round_)
        paths = [self._layout.message(rank, _NAMES[kind], round_.version) for rank in range(self._workers)]
        readers = self.arrivals.collect(paths) if wait else self.arrivals.open(paths)
        try:
            heads = [self._head(self._form_of(kind, reader), reader, path, kind, round_.version, rank)
                     for rank, (reader, path) in enumerate(zip(readers, paths, strict=True))]  # fmt: skip
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        return Gathered(heads, readers, names=self._sums, vector_at=self._gradient_form.vector_at, slices=self._slices,
                        scratch=self._scratch)  # fmt: skip

    # Norms of the slices of the mean gradient

    def share_norms(self, version: int, sums: Array, lengths: Sequence[int]) -> Array:
        """Publish the sums of squares of this rank's slice, and return those of all ranks, one after the other.

        Args:
            version: The round's.
            sums: float64.
            lengths: How many each rank has.
        """
        if not self._is_published(Kind.NORMS, version):
            self._publish_small(Kind.NORMS, version, Form(0, len(sums)), sums=sums.tolist())
        ranks = [rank for rank, length in enumerate(lengths) if length]
        forms = {rank: Form(0, lengths[rank]) for rank in ranks}
        heads = self._fetch(Kind.NORMS, version, forms, None)
        return np.concatenate([np.array(heads[rank].sums) for rank in ranks])

    # Slices of the next version

    def publish_slice(self, version: int, parameters: Array) -> None:
        """Publish this rank's slice of a version's parameters (float32[P])."""
        own = self._slices[self._rank]
        if not len(own) or self._is_published(Kind.SLICE, version):
            return
        values, form, draft = parameters[own.first : own.last], self._slice_forms[self._rank], self._parts.take()
        packed = form.head()
        form.pack(packed, Kind.SLICE, version=version, rank=self._rank, token=self._token,
                  digests=(digest(values),))  # fmt: skip
        draft.write([values.data], form.vector_at)
        self._publish(Kind.SLICE, version, self._parts, draft, packed)

    def fetch_slices(self, version: int, parameters: Array) -> None:
        """Read all other ranks' slices of a version into `parameters`, float32[P].

        Raises:
            Corrupt, Gone: As `gather`.
        """
        others = {
            rank: self._slice_forms[rank]
            for rank, part in enumerate(self._slices)
            if rank != self._rank and len(part)  # an empty slice is never published, and never waited for
        }

        def read(rank: int, reader: Reader) -> Array:
            part = self._slices[rank]
            values = parameters[part.first : part.last]
            reader.readinto(values.data, others[rank].vector_at)
            return values

        self._fetch(Kind.SLICE, version, others, read)

    # Housekeeping

    def retire(self, version: int, redo_from: int) -> None:
        """Take back what no rank can need any more, when the round of `version` has been gathered.

        Args:
            version: All ranks have it.
            redo_from: The newest version that has been saved with its optimiser state: contributions from there on
                are what a lost rank is rebuilt from.
        """
        for kind, before in (
            (Kind.GRADIENT, min(version, redo_from)), (Kind.SCORES, version), (Kind.NORMS, version),
            (Kind.SLICE, version + 1),
        ):  # fmt: skip
            published = self._published[kind]
            for old in [v for v in published if v < before]:
                draft = published.pop(old)
                if draft is None:
                    self._store.sweep(self._outbox, [message_name(_NAMES[kind], old)])
                else:
                    (self._gradients if kind is Kind.GRADIENT else self._parts).give_back(draft)

    def close(self) -> None:
        """Let go of the files; what is published stays."""
        self._gradients.close()
        self._parts.close()
        self.arrivals.close()

    def _is_published(self, kind: Kind, version: int) -> bool:
        return version in self._published[kind]

    def _publish(self, kind: Kind, version: int, drafts: Drafts, draft: Draft, head: bytearray) -> bool:
        draft.write([head], 0)
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
        self, kind: Kind, version: int, forms: Mapping[int, Form], read: Callable[[int, Reader], Array] | None
    ) -> dict[int, Head]:
        """Wait for one message of each rank in `forms`, read it, and check what was read."""
        paths = {rank: self._layout.message(rank, _NAMES[kind], version) for rank in forms}
        readers = dict(zip(paths, self.arrivals.collect(list(paths.values())), strict=True))
        heads: dict[int, Head] = {}
        try:
            for rank, reader in readers.items():
                heads[rank] = self._head(forms[rank], reader, paths[rank], kind, version, rank)
                if read and digest(read(rank, reader)) != heads[rank].digests[0]:
                    raise self._unfit(paths[rank], "its vector is not as it was published")
        finally:
            for reader in readers.values():
                reader.close()
        return heads

    def _form_of(self, kind: Kind, reader: Reader) -> Form:
        if kind is Kind.SCORES:
            return self._score_form
        return self._empty_form if reader.size == self._empty_form.total_bytes else self._gradient_form

    def _head(self, form: Form, reader: Reader, path: str, kind: Kind, version: int, rank: int) -> Head:
        buffer = form.head()
        reader.readinto(buffer, 0)
        try:
            head = form.unpack(buffer, reader.size)
        except Corrupt as error:
            raise self._unfit(path, str(error)) from error
        if (head.kind, head.version, head.rank) != (kind, version, rank):
            raise self._unfit(path, f"it is of kind {head.kind}, rank {head.rank}, version {head.version}")
        return head

    def _unfit(self, path: str, why: str) -> Gone | Corrupt:
        """A file that was retired while it was open may have other content by now; one that is there is damaged."""
        if self._store.exists(path):
            return Corrupt(f"{path} is damaged: {why}")
        return Gone(f"{path} has been retired")


def _kind_of(round_: Round) -> Kind:
    return Kind.GRADIENT if round_.phase == "train" else Kind.SCORES
