"""Whole runs on a local service that is not kind to them: what comes out has the bits of the undisturbed run.

`make test` takes one seed and two moments; `make chaos` (`--thorough`) takes them all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from accidents import Machine, Victim, await_rounds, see_through

from conftest import Start, digest
from estafeta.client.backend import Backend
from estafeta.client.run import Run
from estafeta.protocol.spec import Topology

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

ALL: tuple[Topology, ...] = ("merge", "sharded", "replicated")
FAULTS = "duplicate=0.1,kill=0.05,drop=0.02,delay=0.1,slow=0.05"
SEEDS = 10
MOMENTS = 20

SHORT: dict[str, object] = {"epochs": 4, "batch_size": 512, "micro_batch_size": 256}
WORK = {"model.work_s": 0.02}
"""So that a round is long enough to be hit, and no run is over before all moments have been."""

Kills = tuple[tuple[Topology, ...], tuple[Victim, ...]]
"""Topologies of runs that are at work at the same time, and who is struck down, one moment after the other."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    thorough = metafunc.config.getoption("--thorough")
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEEDS) if thorough else (3,))
    if "kills" in metafunc.fixturenames:
        few: list[Kills] = [(ALL, ("everything", "environment"))]
        all_: list[Kills] = [(ALL, ("service",) * MOMENTS), (ALL, ("everything",) * MOMENTS)]
        all_ += [((topology,), ("environment",) * MOMENTS) for topology in ALL]
        metafunc.parametrize("kills", all_ if thorough else few, ids=lambda k: f"{'+'.join(k[0])}-{k[1][-1]}")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("chaos"))
    yield machine
    machine.close()


def test_injected_faults_do_not_show(machine: Machine, inline: Backend, begin: Start, seed: int) -> None:
    """GIVEN every fault that can be injected, in runs of many short legs THEN the bits are the same."""
    expected = digest(begin(inline, "small.py:job", 2, SHORT))
    options, chaos = {**SHORT, "rounds_per_invocation": 3}, f"{FAULTS},seed={seed}"
    runs = [begin(machine.backend, "small.py:job", 2, options, topology, chaos) for topology in ALL]
    assert [outcome.weights_sha256 for outcome in see_through(runs)] == [expected] * len(runs)
    assert any(run.injected for run in runs), "nothing was injected"


def test_faults_of_one_run_leave_another_alone(machine: Machine, begin: Start) -> None:
    disturbed = begin(machine.backend, "small.py:job", 2, SHORT, "merge", "duplicate=1,seed=1")
    calm = begin(machine.backend, "small.py:job", 2, SHORT, "merge")
    assert digest(disturbed) == digest(calm)
    assert disturbed.usage.retries >= 10
    assert calm.usage.retries == 0
    summary = disturbed.summary().chaos
    assert summary is not None
    assert summary.faults == "duplicate=1,seed=1"
    assert summary.injected["duplicate"] >= 10
    assert calm.summary().chaos is None


def test_killed_processes_do_not_show(machine: Machine, inline: Backend, begin: Start, kills: Kills) -> None:
    """GIVEN runs at work WHEN processes are killed at moments that a seed decides THEN the bits are the same.

    One environment is left to Lambda's retries; after the service, or everything, the runs are resumed. A run that has
    come to its end makes room for another.
    """
    topologies, victims = kills
    options = {**SHORT, "epochs": 50 + 6 * len(victims)}
    expected = digest(begin(inline, "small.py:job", 2, options))

    def at_work(topology: Topology, run: Run | None) -> Run:
        if run and run.status().state != "done":
            return run
        assert run is None or digest(run) == expected
        return begin(machine.backend, "small.py:job", 2, {**options, **WORK}, topology)

    runs: dict[Topology, Run] = {}
    choice = random.Random(f"{kills}")
    for number, victim in enumerate(victims):
        runs = {topology: at_work(topology, runs.get(topology)) for topology in topologies}
        target = runs[topologies[number % len(topologies)]]
        await_rounds(machine.store, target, choice.randint(1, 6))
        machine.strike(victim, choice)
        if victim != "environment":
            machine.up()
            runs = {topology: machine.again(run) for topology, run in runs.items()}
            for run in runs.values():
                if run.status().state != "done":
                    run.resume()
    assert [outcome.weights_sha256 for outcome in see_through(list(runs.values()))] == [expected] * len(runs)
