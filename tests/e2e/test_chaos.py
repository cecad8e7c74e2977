"""Whole runs on a local service that is not kind to them: what comes out has the bits of the undisturbed run.

`make test` takes a few seeds and moments, all topologies at once; `make chaos` (`--thorough`) takes them all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from accidents import Machine, Victim, await_rounds, see_through

from conftest import Start, digest
from estafeta.backend import Backend
from estafeta.run import Run
from estafeta.spec import Choice, Topology

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

ALL: tuple[Topology, ...] = ("merge", "sharded", "replicated")
FAULTS = "duplicate=0.1,kill=0.05,drop=0.02,delay=0.1,slow=0.05"
SEEDS = 10
MOMENTS = 20

SHORT: dict[str, object] = {"epochs": 4, "batch_size": 512, "micro_batch_size": 256}
WORK = {"model.work_s": 0.02}
"""So that a round is long enough to be hit, and no run is over before all moments have been."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    thorough = metafunc.config.getoption("--thorough")
    if "topologies" in metafunc.fixturenames:
        chosen = [(topology,) for topology in ALL] if thorough else [ALL]
        metafunc.parametrize("topologies", chosen, ids="+".join)
    if "victims" in metafunc.fixturenames:
        single: list[tuple[Victim, ...]] = [
            ("environment",) * MOMENTS,
            ("service",) * MOMENTS,
            ("everything",) * MOMENTS,
        ]
        metafunc.parametrize("victims", single if thorough else [("everything", "environment")], ids=lambda v: v[-1])
    if "seeds" in metafunc.fixturenames:
        metafunc.parametrize("seeds", [range(SEEDS) if thorough else (3, 4)], ids=["seeds"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("chaos"))
    yield machine
    machine.close()


def test_injected_faults_do_not_show(
    machine: Machine, inline: Backend, begin: Start, topologies: tuple[Choice, ...], seeds: range
) -> None:
    """GIVEN every fault that can be injected, in runs of many short legs THEN the bits are the same."""
    expected = digest(begin(inline, "small.py:job", 2, SHORT))
    options = {**SHORT, "rounds_per_invocation": 3}
    kinds: set[str] = set()
    for seed in seeds:
        chaos = f"{FAULTS},seed={seed}"
        runs = [begin(machine.backend, "small.py:job", 2, options, topology, chaos) for topology in topologies]
        assert [outcome.weights_sha256 for outcome in see_through(runs)] == [expected] * len(runs)
        for run in runs:
            kinds |= run.injected.keys()
    assert kinds >= {"duplicate", "delay"}, "nothing was injected"


def test_faults_of_one_run_leave_another_alone(machine: Machine, begin: Start) -> None:
    disturbed = begin(machine.backend, "small.py:job", 2, SHORT, "merge", "duplicate=1,seed=1")
    calm = begin(machine.backend, "small.py:job", 2, SHORT, "merge")
    assert digest(disturbed) == digest(calm)
    assert disturbed.usage.retries >= 10
    assert calm.usage.retries == 0
    summary = disturbed.summary()["chaos"]
    assert summary["faults"] == "duplicate=1,seed=1"
    assert summary["injected"]["duplicate"] >= 10
    assert calm.summary()["chaos"] is None


def test_killed_processes_do_not_show(
    machine: Machine, inline: Backend, begin: Start, topologies: tuple[Choice, ...], victims: tuple[Victim, ...]
) -> None:
    """GIVEN runs at work WHEN processes are killed at moments that a seed decides THEN the bits are the same.

    One environment is left to Lambda's retries; after the service, or everything, the runs are resumed.
    """
    options = {**SHORT, "epochs": 50 + 6 * len(victims)}
    expected = digest(begin(inline, "small.py:job", 2, options))
    runs: list[Run] = [
        begin(machine.backend, "small.py:job", 2, {**options, **WORK}, topology) for topology in topologies
    ]
    choice = random.Random(f"{topologies}{victims}")
    for number, victim in enumerate(victims):
        target = runs[number % len(runs)]
        if target.status().state == "failed":  # an event's last attempt was killed, too
            target.resume()
        await_rounds(machine.store, target, choice.randint(1, 6))
        assert target.status().state == "running", "the run had ended before it was hit"
        machine.strike(victim, choice)
        if victim != "environment":
            machine.up()
            runs = [machine.again(run) for run in runs]
            assert all(run.resume().state == "running" for run in runs), "a run had ended before it was hit"
    assert [outcome.weights_sha256 for outcome in see_through(runs)] == [expected] * len(runs)
