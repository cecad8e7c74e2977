"""What can be told of a run from its files, at any moment of its life."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.driver import Relay
from core.specs import spec_of
from core.stage import Stage
from estafeta.cli.words import inspection as words
from estafeta.functions.verbs.inspect import Inspection
from estafeta.protocol.listing import leg_claimed_in
from estafeta.protocol.message import glance
from estafeta.protocol.snapshot import Reside, Work, next_actions, take_snapshot, takeovers
from estafeta.store.files import OsReader
from estafeta.store.store import temporary_name
from estafeta.store.tensorfile import TensorFile
from estafeta.store.vectors import digest

RESIDENT = pytest.mark.parametrize("topology", ["sharded", "replicated"])


def inspect(relay: Relay, rounds: int = 4) -> Inspection:
    return Inspection.model_validate(relay.control("inspect", rounds=rounds))


def text_of(found: Inspection) -> str:
    """All that is shown to people."""
    tables = (words.contributions, words.partials, words.versions, words.legs)
    cells = [cell for table in tables for row in table(found)[1] for cell in row]
    return "\n".join([*cells, *(f"{label} {text}" for label, text in words.standing(found))])


def at_a_round(tmp_path: Path, condition: Callable[[Relay], bool]) -> Relay:
    relay = Relay(tmp_path, spec_of("plain", workers=3))
    relay.start()
    relay.drain_until(lambda: condition(relay))
    return relay


def test_before_it_is_prepared_there_is_nothing_but_what_is_next(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    found = inspect(relay)
    assert (found.state, found.version, found.rounds, found.versions) == ("preparing", None, (), ())
    assert found.next == ({"action": "prepare"},)
    assert "next prepare" in text_of(found)


def test_a_round_shows_its_contributions_and_the_missing_ranks(tmp_path: Path) -> None:
    relay = at_a_round(tmp_path, lambda r: r.store.exists(r.layout.contributions + "/train-00000002-0000"))
    found = inspect(relay)
    newest = found.rounds[0]
    assert (newest.round, newest.missing) == ("train-00000002", (1, 2))
    (entry,) = newest.contributions
    with OsReader(str(tmp_path / relay.layout.contributions / "train-00000002-0000")) as reader:
        vector = np.empty(found_size(relay), np.float32)
        reader.readinto(vector.data, reader.size - vector.nbytes)
        assert entry.digest == f"{digest(vector):08x}"
        assert entry.token == glance(reader).token
    assert (entry.rank, entry.leg, entry.generation) == (0, 0, None)
    snapshot = take_snapshot(relay.store, relay.layout, relay.spec)
    expected = [a for a in next_actions(snapshot) if isinstance(a, Work)]
    assert [(a["round"], a["rank"]) for a in found.next] == [(a.round.name, a.rank) for a in expected]
    assert found.resuming == found.next
    text = text_of(found)
    assert "missing" in text
    assert "next work   round train-00000002, rank 1, leg 0" in text


def test_versions_stand_with_their_digests_and_the_best_is_marked(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    found = inspect(relay)
    assert [version.version for version in found.versions] == [6, 5, 3]
    for version in found.versions:
        (part,) = version.parts
        assert part.rank is None
        for path, digests in (
            (relay.layout.version(version.version), {"parameters": part.digest}),
            (relay.layout.optimizer(version.version), part.state),
        ):
            with OsReader(str(tmp_path / path)) as reader:
                assert TensorFile(reader).digests == digests
    outcome = relay.outcome()
    assert [version.version for version in found.versions if version.is_best] == [outcome.best_version]
    assert [(e.which, e.version) for e in found.exports] == [("best", outcome.best_version), ("final", 6)]
    assert found.exports[1].weights_sha256 == outcome.weights_sha256
    assert (found.next, found.resuming) == ((), ())
    assert f"sha256 {outcome.weights_sha256}" in text_of(found)


@RESIDENT
def test_residents_show_their_legs_generations_and_messages(topology: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", workers=3, topology=topology, rounds_per_invocation=3), seed=1)
    stage.start()
    stage.drain_until(lambda: stage.store.exists(stage.layout.message(1, "gradient", 4)))
    stage.kill_all()
    found = inspect(stage, rounds=20)
    assert found.topology == topology
    by_round = {round_.round: round_ for round_ in found.rounds}
    entry = next(e for e in by_round["train-00000004"].contributions if e.rank == 1)
    with OsReader(str(tmp_path / stage.layout.message(1, "gradient", 4))) as reader:
        vector = np.empty(found_size(stage), np.float32)
        reader.readinto(vector.data, reader.size - vector.nbytes)
    assert entry.digest == f"{digest(vector):08x}"
    claims = {name: json.loads(stage.store.read(f"{stage.layout.legs}/{name}")) for name in marks_of(stage)}
    (claim,) = (name for name, content in claims.items() if content["holder"] == entry.token)
    assert leg_claimed_in(claim) == (1, entry.leg, entry.generation)
    assert {leg.holder for leg in found.legs} <= {content["holder"] for content in claims.values()}
    assert [leg.rank for leg in found.legs] == [0, 1, 2]
    assert found.next == ()
    expected = takeovers(take_snapshot(stage.store, stage.layout, stage.spec))
    assert [(a["rank"], a["leg"], a["generation"]) for a in found.resuming] == [
        (action.rank, action.leg, action.generation) for action in expected if isinstance(action, Reside)
    ]
    assert f"reside   rank 1, leg {found.legs[1].leg}" in text_of(found)
    stage.control("resume")
    stage.drain()
    assert stage.outcome().state == "done"


def marks_of(relay: Relay) -> list[str]:
    """The claims to be a leg."""
    return [name for name in relay.store.list(relay.layout.legs) if leg_claimed_in(name)]


def found_size(relay: Relay) -> int:
    plan = take_snapshot(relay.store, relay.layout, relay.spec).plan
    assert plan is not None
    return plan.size


@RESIDENT
def test_ranks_that_nobody_has_sent_for_are_next(topology: str, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=2, topology=topology))
    relay.start()
    relay.step()
    found = inspect(relay)
    assert [(a["action"], a["rank"]) for a in found.next] == [("reside", 0), ("reside", 1)]
    assert set(found.next[0]) == {"action", *Reside.__dataclass_fields__}


def test_an_unfinished_share_is_shown(tmp_path: Path) -> None:
    times = iter([*[900.0] * 3, 0.0])
    relay = Relay(tmp_path, spec_of("plain"), remaining_s=lambda: next(times, 900.0))
    relay.start()
    relay.drain_until(lambda: bool(relay.store.list(relay.layout.partial)))
    (partial,) = inspect(relay).partials
    assert partial.rank in (0, 1)
    assert (partial.round[:6], partial.leg) == ("train-", 1)
    assert partial.parts > 0
    assert partial.rows > 0
    assert partial.round in text_of(inspect(relay))


def test_damage_is_told_and_does_not_keep_the_rest_from_being_told(tmp_path: Path) -> None:
    relay = at_a_round(tmp_path, lambda r: len(r.store.list(r.layout.contributions)) >= 2)
    path = next((tmp_path / relay.layout.contributions).iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    found = inspect(relay)
    assert [bool(e.damage) for round_ in found.rounds for e in round_.contributions].count(True) == 1
    assert "damaged" in text_of(found)


def test_leftovers_are_counted(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    assert inspect(relay).unpublished == 0
    for directory in (relay.layout.root, relay.layout.weights):
        (tmp_path / directory / temporary_name("x")).write_bytes(b"half")
    assert inspect(relay).unpublished == 2
    assert "2 files without a public name" in text_of(inspect(relay))


def test_looking_changes_nothing_and_never_fails(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("dropout"))
    relay.start()
    while relay.step():
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        inspect(relay, rounds=1)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert relay.outcome().state == "done"
