"""What lies in a run's folder, told from its files alone: who contributed what, which versions there are, what is next.

The verb opens files and reads their heads, never their tensors. It changes nothing, so a client may ask at any time. If
the run is at work, the parts of the answer may be a moment apart.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import xor
from typing import Any, TypeVar

from estafeta.errors import Corrupt, Gone
from estafeta.protocol import listing
from estafeta.protocol.layout import Round, claim_of_leg, name_of
from estafeta.protocol.message import glance
from estafeta.protocol.partition import slices_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import Action, Snapshot, next_actions, take_snapshot, takeovers
from estafeta.protocol.spec import Document, Plan, Which
from estafeta.protocol.verbs import InspectVerb
from estafeta.protocol.weights import PARAMETERS, STATE
from estafeta.store.files import Reader
from estafeta.store.store import claim_name
from estafeta.store.tensorfile import TensorFile

T = TypeVar("T")


class Contributed(Document):
    """What a rank has published for a round.

    Attributes:
        rows: Rows that its sums cover.
        digest: Exclusive or of the gradient's words, as the file has it; empty if there is no gradient.
        leg: The rank's leg; None if the marks of that leg are removed.
        generation: The leg's generation; None likewise, and in `merge`, whose legs have none.
        is_stand_in: Whether the round was closed without the rank; the token is then that of the rank that closed it.
        damage: What is wrong with the file; empty if nothing is.
    """

    rank: int
    rows: int = 0
    is_stand_in: bool = False
    digest: str = ""
    token: str = ""
    leg: int | None = None
    generation: int | None = None
    damage: str = ""


class InspectedRound(Document):
    """A round that has contributions, and the ranks whose contributions are missing."""

    round: str
    contributions: tuple[Contributed, ...]
    missing: tuple[int, ...]


class Unfinished(Document):
    """Where a leg goes on with a share that did not fit the one before: rows and micro-batches that are done."""

    round: str
    rank: int
    leg: int
    rows: int
    parts: int


class Part(Document):
    """A file of a version: all of it (`rank` is None), or one rank's slice, with the CRC-32 of each vector."""

    rank: int | None
    token: str
    digest: str
    state: dict[str, str]


class InspectedVersion(Document):
    """A version that has files."""

    version: int
    is_complete: bool
    is_best: bool
    parts: tuple[Part, ...]


class InspectedLeg(Document):
    """The newest leg of a resident rank: its holder, and whether it is ready or has left."""

    rank: int
    leg: int
    generation: int
    holder: str
    is_ready: bool
    has_left: bool


class Export(Document):
    """An exported version."""

    which: Which
    version: int
    weights_sha256: str


class Inspection(Document):
    """A run as its folder shows it.

    Attributes:
        reached: The newest version that ranks have worked on.
        best_version: The best version by that record.
        rounds: Newest first.
        older_rounds: How many more rounds have contributions.
        versions: Newest first.
        merges: Holder of each claim to merge, by claim.
        unpublished: Number of files without a public name: writers are at work on them, or have died.
        next: What `next_actions` says.
        resuming: What `estafeta resume` would do.
    """

    run: str
    state: str
    topology: str
    workers: int
    version: int | None
    reached: int
    total_steps: int | None
    epoch: int
    best_version: int | None
    rounds: tuple[InspectedRound, ...]
    older_rounds: int
    partials: tuple[Unfinished, ...]
    versions: tuple[InspectedVersion, ...]
    legs: tuple[InspectedLeg, ...]
    merges: dict[str, str]
    exports: tuple[Export, ...]
    unpublished: int
    next: tuple[dict[str, Any], ...]
    resuming: tuple[dict[str, Any], ...]


def inspect(verb: InspectVerb, folder: RunFolder) -> Inspection:
    """Look at a run; the verb says for how many rounds the client wants the contributions."""
    return _Inspector(folder).inspect(verb.rounds)


class _Inspector:
    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._spec, self._store, self._layout = folder, folder.spec, folder.store, folder.layout

    def inspect(self, most_rounds: int) -> Inspection:
        store, layout = self._store, self._layout
        snapshot = take_snapshot(self._folder)
        plan, last = snapshot.plan, snapshot.last_epoch
        marks = store.list(layout.legs)
        rounds = self._rounds(plan)
        shown = sorted(rounds, reverse=True)[:most_rounds]
        return Inspection(
            run=self._spec.run,
            state=snapshot.outcome or ("stopping" if snapshot.stop_requested else "running" if plan else "preparing"),
            topology=plan.topology if plan else self._spec.topology,
            workers=self._spec.workers,
            version=snapshot.version,
            reached=snapshot.reached,
            total_steps=plan.total_steps if plan else None,
            epoch=last.epoch if last else 0,
            best_version=last.best_version if last else None,
            rounds=tuple(self._round(round_, rounds[round_], plan, marks) for round_ in shown),
            older_rounds=len(rounds) - len(shown),
            partials=tuple(self._partials()),
            versions=tuple(self._versions(last.best_version if last else None)),
            legs=tuple(self._legs(marks)),
            merges={name: self._holder(name) for name in sorted(marks) if name.startswith("merge-")},
            exports=tuple(self._exports()),
            unpublished=sum(len(store.unpublished(d)) for d in (layout.root, *layout.directories(self._residents))),
            next=tuple(_facts(action) for action in next_actions(snapshot)),
            resuming=tuple(_facts(action) for action in takeovers(_reopened(snapshot))),
        )

    @property
    def _residents(self) -> int:
        return 0 if self._spec.topology == "merge" else self._spec.workers

    # Contributions

    def _rounds(self, plan: Plan | None) -> dict[Round, frozenset[int]]:
        """Return the rounds that have contributions, with the ranks that have contributed."""
        if plan is None or not plan.is_resident:
            names = self._store.list(self._layout.contributions)
            return {round_: listing.ranks_in(names, round_) for round_ in _rounds_in(names)}
        found: dict[Round, set[int]] = defaultdict(set)
        for rank in range(self._spec.workers):
            names = self._store.list(self._layout.outbox(rank))
            for version in listing.messages_in(names, "gradient"):
                found[Round(version, "train")].add(rank)
            for version in listing.messages_in(names, "scores"):
                found[Round(version, "valid")].add(rank)
        return {round_: frozenset(ranks) for round_, ranks in found.items()}

    def _round(self, round_: Round, ranks: frozenset[int], plan: Plan | None, marks: frozenset[str]) -> InspectedRound:
        layout, is_train, is_resident = self._layout, round_.phase == "train", plan is not None and plan.is_resident
        slices = len(slices_of(self._spec, plan)) if plan and is_train else 0
        by_token = self._legs_by_token(marks) if is_resident else {}
        by_rank = {} if is_resident else listing.legs_in(self._store.list(layout.partial), round_)

        def contributed(rank: int) -> Contributed | None:
            message = layout.message(rank, "gradient" if is_train else "scores", round_.version)

            def read(reader: Reader) -> Contributed:
                head = glance(reader, slices)
                leg, generation = (
                    by_token.get(head.token, (None, None)) if is_resident else (by_rank.get(rank, 0), None)
                )
                return Contributed(
                    rank=rank,
                    rows=head.rows,
                    is_stand_in=head.is_stand_in,
                    digest=f"{reduce(xor, head.digests):08x}" if head.digests and head.rows else "",
                    token=head.token,
                    leg=leg,
                    generation=generation,
                )

            path = message if is_resident else layout.contribution(round_, rank)
            return self._read(path, read, lambda damage: Contributed(rank=rank, damage=damage))

        there = tuple(found for rank in sorted(ranks) if (found := contributed(rank)))
        missing = sorted(set(range(self._spec.workers)) - {contribution.rank for contribution in there})
        return InspectedRound(round=round_.name, contributions=there, missing=tuple(missing))

    def _partials(self) -> Iterator[Unfinished]:
        names = self._store.list(self._layout.partial)
        for round_ in sorted(_rounds_in(names)):
            for rank, leg in sorted(listing.legs_in(names, round_).items()):
                head = self._read(self._layout.partial_of(round_, rank, leg), glance, _none)
                if head:
                    yield Unfinished(round=round_.name, rank=rank, leg=leg, rows=head.rows, parts=head.parts)

    # Versions

    def _versions(self, best: int | None) -> Iterator[InspectedVersion]:
        names = self._store.list(self._layout.weights)
        complete = listing.versions_in(names, self._spec.workers)
        for version in sorted({v for name in names if (v := listing.version_of(name)) is not None}, reverse=True):
            ranks: list[int | None] = [*sorted(listing.pieces_in(names, version))]
            parts = tuple(part for rank in ranks or [None] if (part := self._part(version, rank)))
            yield InspectedVersion(
                version=version, is_complete=version in complete, is_best=version == best, parts=parts
            )

    def _part(self, version: int, rank: int | None) -> Part | None:
        layout = self._layout
        path = layout.version(version) if rank is None else layout.piece(version, rank)
        file = self._read(path, TensorFile, _none)
        if file is None:
            return None
        state = {name.removeprefix(STATE): d for name, d in file.digests.items() if name.startswith(STATE)}
        if rank is None and self._store.exists(layout.optimizer(version)):
            whole = self._read(layout.optimizer(version), TensorFile, _none)
            state = dict(whole.digests) if whole else {}
        return Part(rank=rank, token=file.metadata["token"], digest=file.digests[PARAMETERS], state=state)

    def _exports(self) -> Iterator[Export]:
        whichs: tuple[Which, ...] = ("best", "final")
        for which in whichs:
            path = f"{self._layout.export(which)}/state.json"
            if self._store.exists(path):
                facts = json.loads(self._store.read(path))
                yield Export(which=which, version=facts["version"], weights_sha256=facts["weights_sha256"])

    # Legs

    def _legs(self, marks: frozenset[str]) -> Iterator[InspectedLeg]:
        layout = self._layout
        for rank, (leg, generation) in sorted(listing.residents_in(marks).items()):
            yield InspectedLeg(
                rank=rank,
                leg=leg,
                generation=generation,
                holder=self._holder(claim_name(claim_of_leg(rank, leg), generation)),
                is_ready=name_of(layout.ready(rank, leg)) in marks,
                has_left=name_of(layout.left(rank, leg)) in marks,
            )

    def _legs_by_token(self, marks: frozenset[str]) -> dict[str, tuple[int, int]]:
        """Return leg and generation by the token of their holder."""
        return {self._holder(name): claim[1:] for name in marks if (claim := listing.leg_claimed_in(name))}

    def _holder(self, name: str) -> str:
        try:
            return str(json.loads(self._store.read(f"{self._layout.legs}/{name}"))["holder"])
        except Gone:
            return ""

    def _read(self, path: str, use: Callable[[Reader], T], damaged: Callable[[str], T | None]) -> T | None:
        """Return what a file tells; None if it has gone meanwhile, or its writer has filled it with other content."""
        try:
            return self._store.reading(path, use)
        except Gone:
            return None
        except Corrupt as error:
            return damaged(str(error)) if self._store.exists(path) else None


def _rounds_in(names: Iterable[str]) -> set[Round]:
    return {round_ for name in names if (round_ := listing.round_of(name))}


def _none(_damage: str) -> None:
    return None


def _reopened(snapshot: Snapshot) -> Snapshot:
    """Return a run as `resume` would leave it: neither ended nor asked to stop, unless it is done."""
    return snapshot if snapshot.outcome == "done" else dataclasses.replace(snapshot, outcome=None, stop_requested=False)


def _facts(action: Action) -> dict[str, Any]:
    """Return an action as plain data: its kind, and its fields."""
    fields = {field.name: getattr(action, field.name) for field in dataclasses.fields(action)}
    plain = {name: value.name if isinstance(value, Round) else value for name, value in fields.items()}
    return {"action": type(action).__name__.lower(), **plain}
