"""Whatever happens to a run, it ends with the bits of a run to which nothing happens, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .history import History, live
from .stand_ins import stand_ins
from .world import PROFILES

HISTORIES, TESTS = 1000, 20


@pytest.fixture(autouse=True)
def _stand_ins() -> Iterator[None]:
    with stand_ins():
        yield


def seeds_that_went_wrong(profile: str, seeds: range) -> list[str]:
    histories = (live(PROFILES[profile](seed)) for seed in seeds)
    return [
        f"make simulate PROFILE={profile} SEED={history.world.seed}: {history.violation}"
        for history in histories
        if history.violation
    ]


@pytest.mark.parametrize("part", range(TESTS))
def test_a_run_survives_anything(part: int) -> None:
    count = HISTORIES // TESTS
    assert seeds_that_went_wrong("anything", range(part * count, (part + 1) * count)) == []


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "anything"])
def test_a_run_survives_what_the_mutants_do_not(profile: str) -> None:
    assert seeds_that_went_wrong(profile, range(12)) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_seed_has_one_history(profile: str) -> None:
    first, second = (live(PROFILES[profile](3)) for _ in range(2))
    assert first.journal.digest == second.journal.digest
    assert len(first.journal) > 100
    assert live(PROFILES[profile](4)).journal.digest != first.journal.digest


def test_a_seed_has_one_history_in_any_process() -> None:
    """Neither the hash of strings, nor what the process did before, has a part in it."""
    code = (
        "from simulation.history import live\nfrom simulation.stand_ins import stand_ins\n"
        "from simulation.world import PROFILES\n"
        "with stand_ins(): print(live(PROFILES['anything'](3)).journal.digest)"
    )
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(tests)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == live(PROFILES["anything"](3)).journal.digest


def test_worlds_have_every_topology_size_and_fault() -> None:
    worlds = [PROFILES["anything"](seed) for seed in range(HISTORIES)]
    assert {world.topology for world in worlds} == {"merge", "sharded", "replicated"}
    assert {world.workers for world in worlds} == set(range(1, 10))
    assert {world.storage for world in worlds} == {"nfs", "local"}
    for fault in vars(worlds[0].faults):
        assert any(getattr(world.faults, fault) for world in worlds), fault


def test_a_history_is_told_by_what_changed_something() -> None:
    history = live(PROFILES["killed"](0))
    told, whole = history.tell(), history.tell(whole=True)
    assert len(told.splitlines()) < len(whole.splitlines())
    assert "as it should be" in told
    lines = told.splitlines()
    assert any(" link " in line and "plan.json" in line for line in lines)
    assert any("and is killed" in line for line in lines)
    assert not any(" listdir " in line for line in lines[: len(lines) // 2])


def test_victims_are_killed_in_the_middle_of_a_file_and_of_a_draft() -> None:
    seeds, missing = iter(range(12)), {"create", "append"}
    while missing:
        lines = live(PROFILES["given-up"](next(seeds))).tell().splitlines()
        missing -= {call for line in lines if line.endswith("in the middle of it") for call in missing if call in line}


def test_watchdog_acts_in_worlds_that_lose_events() -> None:
    """And in worlds without it none is lost: they must go on by themselves."""
    worlds = [PROFILES["anything"](seed) for seed in range(60)]
    assert all(world.tends for world in worlds if world.faults.drop)
    assert any(world.tends for world in worlds if not world.faults.drop)
    assert any("was set going again" in live(world).tell() for world in worlds if world.faults.drop)


def test_a_run_that_has_failed_says_why_and_comes_to_the_same_bits_when_it_is_resumed() -> None:
    history = next(history for seed in range(12) if (history := live(PROFILES["given-up"](seed))).failures > 1)
    assert history.violation is None
    lines = history.tell().splitlines()
    assert any(" link " in line and "failed.json" in line for line in lines)
    assert any(" rename " in line and "failed-02.json" in line for line in lines)
    assert any(" link " in line and "done.json" in line for line in lines)


@pytest.mark.parametrize("reason", ["UserCodeError", "NotFinite", "Diverged"])
def test_a_merged_run_that_fails_says_why_and_is_resumed(reason: str) -> None:
    worlds = (world for seed in range(100) if (world := PROFILES["failing"](seed)).topology == "merge")
    fails = (world for world in worlds if world.mishap and world.mishap.reason == reason)
    history = next(history for world in fails if (history := live(world)).failures)
    assert history.violation is None
    assert any(" rename " in line and "failed-01.json" in line for line in history.tell().splitlines())


def test_a_run_that_has_stopped_at_its_limit_goes_on_to_the_same_bits() -> None:
    worlds = [world for seed in range(60) if (world := PROFILES["failing"](seed)).max_rounds == 1]
    assert {world.topology for world in worlds} == {"merge", "sharded", "replicated"}
    history = live(next(world for world in worlds if world.topology == "merge"))
    assert history.violation is None
    assert any(" rename " in line and "stopped-02.json" in line for line in history.tell().splitlines())


def test_a_history_that_goes_wrong_ends_with_what_went_wrong() -> None:
    history: History = live(PROFILES["damaged"](0))
    assert history.violation is None
    assert history.failures == 1
    assert "is damaged" in history.tell()
