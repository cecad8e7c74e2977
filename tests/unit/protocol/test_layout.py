"""Every name that the layout builds is read back from a listing, and no other."""

from __future__ import annotations

import posixpath

from hypothesis import given
from hypothesis import strategies as st

from estafeta.protocol.layout import (
    RUN_NAME,
    DatasetLayout,
    Phase,
    Round,
    RunLayout,
    claim_of,
    claim_of_call,
    claim_of_leg,
    contribution_name,
    message_name,
)
from estafeta.protocol.listing import (
    all_calls_in,
    attempt_of,
    calls_in,
    epochs_in,
    generation_in,
    leg_of,
    legs_in,
    messages_in,
    pieces_in,
    rank_of_outbox,
    ranks_in,
    residents_in,
    round_of,
    version_of,
    versions_in,
)
from estafeta.store.store import claim_name

LAYOUT = RunLayout("amber-41")
PHASES: st.SearchStrategy[Phase] = st.sampled_from(["train", "valid"])
ROUNDS = st.builds(Round, st.integers(0, 99_999_999), PHASES)
RANKS = st.integers(0, 9998)
LEGS = st.integers(1, 300)
VERSIONS = st.integers(0, 99_999_999)
FOREIGN = {
    "README",
    "0003",
    ".tmp-1-00000001.safetensors",
    "train-1-2.safetensors",
    "00000001.safetensors.part",
    "frozen.safetensors",
    "00000001-0002.safetensors.part",
    "gradient-1",
    "rank-1-2.g0",
}
KINDS = ("gradient", "scores", "slice", "norms")


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


@given(round_=ROUNDS, other=ROUNDS, ranks=st.sets(RANKS, max_size=5))
def test_ranks_are_read_back_from_contributions(round_: Round, other: Round, ranks: set[int]) -> None:
    names = {name_of(LAYOUT.contribution(round_, rank)) for rank in ranks} | FOREIGN
    if other != round_:
        names |= {contribution_name(other, rank) for rank in range(3)}
    assert ranks_in(names, round_) == ranks


@given(round_=ROUNDS, legs=st.dictionaries(RANKS, st.sets(LEGS, min_size=1, max_size=4), max_size=4))
def test_the_highest_leg_of_each_rank_is_read_back(round_: Round, legs: dict[int, set[int]]) -> None:
    names = {name_of(LAYOUT.partial_of(round_, rank, leg)) for rank in legs for leg in legs[rank]} | FOREIGN
    names |= {name_of(LAYOUT.partial_of(Round(round_.version + 1, round_.phase), 0, 7))}
    assert legs_in(names, round_) == {rank: max(of_rank) for rank, of_rank in legs.items()}


@given(versions=st.sets(st.integers(0, 99_999_999), max_size=4))
def test_versions_are_read_back_from_weights(versions: set[int]) -> None:
    names = {name_of(LAYOUT.version(version)) for version in versions}
    optimizers = {name_of(LAYOUT.optimizer(version)) for version in versions}
    assert versions_in(names | FOREIGN) == versions
    assert versions_in(optimizers) == frozenset(), "a state without its parameters is no version"
    assert {version_of(name) for name in names} == {version_of(name) for name in optimizers} == versions
    assert version_of(name_of(LAYOUT.frozen)) is None


@given(
    whole=st.sets(VERSIONS, max_size=3),
    pieces=st.dictionaries(VERSIONS, st.sets(st.integers(0, 3), min_size=1), max_size=4),
)
def test_a_version_in_pieces_is_one_when_all_are_there(whole: set[int], pieces: dict[int, set[int]]) -> None:
    names = {name_of(LAYOUT.piece(version, rank)) for version, ranks in pieces.items() for rank in ranks} | FOREIGN
    for version, ranks in pieces.items():
        assert pieces_in(names, version) == ranks
        assert {version_of(name_of(LAYOUT.piece(version, rank))) for rank in ranks} == {version}
    assert versions_in(names) == frozenset(), "where there are no residents, a piece is no version"
    complete = {version for version, ranks in pieces.items() if len(ranks) == 4}
    assert versions_in(iter(names | {name_of(LAYOUT.version(version)) for version in whole}), 4) == whole | complete


@given(messages=st.dictionaries(st.sampled_from(KINDS), st.sets(VERSIONS, max_size=3)))
def test_messages_are_read_back_from_an_outbox(messages: dict[str, set[int]]) -> None:
    names = {message_name(kind, version) for kind, versions in messages.items() for version in versions} | FOREIGN
    for kind in KINDS:
        assert messages_in(names, kind) == messages.get(kind, set())
    assert LAYOUT.message(3, "norms", 12) == f"{LAYOUT.outbox(3)}/norms-00000012"


@given(claims=st.dictionaries(RANKS, st.sets(st.tuples(LEGS, st.integers(0, 120)), min_size=1), max_size=4))
def test_the_newest_leg_of_each_resident_is_read_back(claims: dict[int, set[tuple[int, int]]]) -> None:
    names = {
        claim_name(claim_of_leg(rank, leg), generation)
        for rank, of_rank in claims.items()
        for leg, generation in of_rank
    }
    marks = {name_of(mark(rank, 301)) for rank in claims for mark in (LAYOUT.ready, LAYOUT.left)}
    assert residents_in(names | marks | FOREIGN) == {rank: max(of_rank) for rank, of_rank in claims.items()}
    for rank, of_rank in claims.items():
        for leg in {leg for leg, _ in of_rank}:
            assert generation_in(names | marks, rank, leg) == max(g for other, g in of_rank if other == leg)
        assert generation_in(names | marks, rank, 301) == -1


@given(rank=RANKS, leg=LEGS)
def test_every_mark_of_a_resident_tells_its_leg(rank: int, leg: int) -> None:
    marks = (claim_name(claim_of_leg(rank, leg), 0), name_of(LAYOUT.ready(rank, leg)), name_of(LAYOUT.left(rank, leg)))
    assert {leg_of(mark) for mark in marks} == {(rank, leg)}
    assert len(set(marks)) == 3
    assert leg_of(claim_name(claim_of(Round(rank, "train")), leg)) is None
    assert {round_of(mark) for mark in marks} == {None}


@given(epochs=st.sets(st.integers(1, 20_000), max_size=4))
def test_epochs_are_read_back_from_records(epochs: set[int]) -> None:
    assert epochs_in({name_of(LAYOUT.epoch(epoch)) for epoch in epochs} | FOREIGN) == epochs


@given(round_=ROUNDS, rank=RANKS, leg=LEGS)
def test_every_file_of_a_round_tells_which(round_: Round, rank: int, leg: int) -> None:
    names = (LAYOUT.contribution(round_, rank), LAYOUT.partial_of(round_, rank, leg), claim_name(claim_of(round_), 0))
    assert {round_of(name_of(name)) for name in names} == {round_}
    assert round_of(round_.name) == round_
    assert round_of("00000001.safetensors") is None


@given(one=ROUNDS, other=ROUNDS)
def test_the_validation_of_a_version_comes_after_its_training(one: Round, other: Round) -> None:
    """Names sort as the rounds of one phase do, and no two rounds share one."""
    assert (one.name == other.name) == (one == other)
    if one.phase == other.phase:
        assert (one.name < other.name) == (one < other)


def test_all_paths_lie_in_folders_that_are_made_at_first() -> None:
    round_ = Round(3, "train")
    files = [
        LAYOUT.version(1),
        LAYOUT.optimizer(1),
        LAYOUT.frozen,
        LAYOUT.contribution(round_, 0),
        LAYOUT.epoch(1),
        LAYOUT.partial_of(round_, 0, 1),
        f"{LAYOUT.legs}/{claim_of(round_)}",
        f"{LAYOUT.export('best')}/state.json",
        f"{LAYOUT.export('final')}/state.json",
        f"{LAYOUT.code}/job.py",
    ]
    assert {posixpath.dirname(path) for path in files} == set(LAYOUT.directories())
    residents = [LAYOUT.message(rank, kind, 3) for rank in range(3) for kind in KINDS]
    more = [LAYOUT.piece(1, 2), LAYOUT.ready(0, 1), LAYOUT.left(2, 300), f"{LAYOUT.legs}/{claim_of_leg(0, 0)}"]
    assert {posixpath.dirname(path) for path in files + residents + more} == set(LAYOUT.directories(3))
    assert LAYOUT.directories(0) == LAYOUT.directories()
    top = (LAYOUT.spec, LAYOUT.plan, LAYOUT.stop, LAYOUT.reserve, LAYOUT.outcome("done"))
    assert {posixpath.dirname(path) for path in top} == {LAYOUT.root} == {"runs/amber-41"}


def test_blocks_are_told_by_their_attempt() -> None:
    layout = DatasetLayout("people")
    folder, _, name = layout.block("0123456789abcdef", 12).rpartition("/")
    assert attempt_of(name) == "0123456789abcdef"
    assert folder == posixpath.dirname(layout.manifest) == layout.root == "datasets/people"
    assert [attempt_of(other) for other in ("manifest.json", f".tmp-{name}", "00000001.safetensors")] == [None] * 3


def test_names_of_runs_cannot_leave_their_folder() -> None:
    assert all(RUN_NAME.fullmatch(name) for name in ("a", "amber-41", "0.1_b"))
    assert not any(RUN_NAME.fullmatch(name) for name in ("", ".", "..", "a/b", "A", "-a", ".hidden", "a" * 64, "a\n"))


def test_calls_are_counted_by_version() -> None:
    names = {
        claim_name(claim_of_call(rank, version), number)
        for rank, version, count in ((3, 12, 2), (3, 13, 1), (4, 12, 5))
        for number in range(count)
    }
    assert calls_in(names | FOREIGN, 3) == {12: 2, 13: 1}
    assert calls_in(names | FOREIGN, 5) == {}
    assert set(all_calls_in(names | FOREIGN)) == names


def test_the_rank_of_a_message_is_in_its_path() -> None:
    layout = RunLayout("r")
    assert [rank_of_outbox(layout.message(rank, "slice", 7)) for rank in (0, 3, 12)] == [0, 3, 12]
    assert leg_of(layout.crashed(3, 2, 1).rpartition("/")[2]) == (3, 2)
