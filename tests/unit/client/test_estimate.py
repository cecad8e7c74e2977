"""Predictions worked out by hand, and properties of all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.specs import FUNCTIONS, spec_of
from estafeta.client.plan.estimate import Estimate, Machine, estimate, grid, machines, pareto, verdict
from estafeta.client.plan.round import AWS, Profile, Setting, traffic, valid_traffic
from estafeta.cost.cost import Basis, access_usd
from estafeta.errors import UsageError
from estafeta.protocol.spec import FunctionSettings, Topology
from estafeta.training.memory import MIB, RUNTIME_BYTES, plan_memory

PROFILE = Profile(
    parameters=1_000_000,
    state_vectors=2,
    train_rows=1000,
    valid_rows=200,
    batch_size=100,
    micro_batch_size=25,
    steps=20,
    epochs=2,
    row_s=0.001,
    pass_s=0.01,
    valid_row_s=0.0005,
    element_s=1e-9,
    parallel=1.0,
    model_bytes=4_000_000,
    worker_bytes=400 * MIB,
)
"""A vector has 4 MB. A share of 4 workers is 25 rows, one pass: 0.01 + 25 * 0.001 = 0.035 s."""

REQUEST_USD = 0.4793968e-6
"""$0.20 a million, and 600 bytes of log at $0.50 for 2**30."""

SECOND_USD = 1769 / 1024 * 0.0000133334
MEMORY_MB = (1769, 3538, 10240)
TOPOLOGIES: tuple[Topology, ...] = ("merge", "sharded", "replicated")
START_S = 19.7
"""5.9 s, and 13.8 s on one vCPU."""


def test_replicated_by_hand() -> None:
    """Each of 4 ranks reads 16 MB and writes 4 MB.

    Network: 20 / 78 = 0.2564 s; file system: 4 * (16 / 3 + 4) MB / 100 MiB/s = 0.356039 s, which is longer.
    Adding and updating 5 million elements: 0.005 s. Four changes and 12 reads: 0.0228 s.
    """
    one = estimate(PROFILE, Setting(4, 1769, "replicated"), Basis())
    assert one.parts == pytest.approx({"compute": 0.040, "EFS throughput": 0.356039, "latency": 0.0228}, rel=1e-5)
    round_s, valid_s = 0.418839, 50 * 0.0005 + 0.0228
    assert one.round_s == pytest.approx(round_s, rel=1e-5)
    assert one.seconds == pytest.approx(2 * START_S + 20 * round_s + 2 * valid_s, rel=1e-5)
    billed_s = 4 * (START_S + 20 * round_s + 2 * valid_s) + START_S
    assert one.compute_usd == pytest.approx(billed_s * SECOND_USD, rel=1e-5)
    assert one.requests_usd == pytest.approx(5 * REQUEST_USD, rel=1e-5)
    assert one.efs_usd == 0.0
    assert (one.read_bytes, one.write_bytes) == (64_000_000 + 16 * 512, 16_000_000), "heads are read first"
    assert one.binds == "starting"
    assert one.memory_mb == 400 + 20, "parameters, gradient twice, and both state vectors are 19.07 MiB"


def test_sharded_by_hand() -> None:
    """Each reads 4 + 3 MB and writes 4 + 1 MB: 4 * (7 / 3 + 5) MB / 100 MiB/s = 0.279744 s; two hops; a slice each."""
    one = estimate(PROFILE, Setting(4, 1769, "sharded"), Basis())
    assert one.parts == pytest.approx({"compute": 0.03625, "EFS throughput": 0.279744, "latency": 0.0456}, rel=1e-5)
    assert (one.read_bytes, one.write_bytes) == (28_000_000 + 32 * 512, 20_000_000)
    assert one.memory_mb == 400 + 16, "three vectors, and of two the slice of 4 blocks of 16, twice: 15.44 MiB"


def test_merge_by_hand() -> None:
    """Workers: 4 * (4 / 3 + 4) MB / 100 MiB/s = 0.203451 s. Merge: (16 + 12) / 78 = 0.358974 s, by the network.

    A worker takes 0.035 + 0.203451 + 0.0158 s, the merge 0.005 + 0.358974 + 0.0228 s, two invocations 0.1 s.
    """
    one = estimate(PROFILE, Setting(4, 1769, "merge"), Basis())
    assert one.parts == pytest.approx({"compute": 0.040, "network": 0.562425, "latency": 0.1386}, rel=1e-5)
    worker_s, merge_s, valid_s = 0.254251, 0.386774, 0.025 + 0.0158
    assert one.round_s == pytest.approx(worker_s + merge_s + 0.1, rel=1e-5)
    assert one.seconds == pytest.approx(2 * START_S + 20 * one.round_s + 2 * (valid_s + 0.0228 + 0.1), rel=1e-5)
    billed_s = 4 * (START_S + 20 * worker_s + 2 * valid_s) + START_S + 20 * merge_s + 2 * 0.0228
    assert one.compute_usd == pytest.approx(billed_s * SECOND_USD, rel=1e-5)
    assert one.requests_usd == pytest.approx((1 + 5 * 22) * REQUEST_USD, rel=1e-5)
    assert (one.read_bytes, one.write_bytes) == (32_000_000 + 12 * 512, 16_000_000 + 12_000_000)
    assert one.memory_mb == 400 + 12, "three vectors: 11.44 MiB"


def test_access_that_has_a_price() -> None:
    setting, elastic = Setting(4, 1769, "replicated"), Basis(throughput="elastic")
    one = estimate(PROFILE, setting, elastic)
    rounds, valid = (
        access_usd(traffic(PROFILE, setting), elastic.prices),
        access_usd(valid_traffic(setting), elastic.prices),
    )
    assert one.efs_usd == pytest.approx(20 * rounds + 2 * valid)
    assert one.efs_usd > 20 * (64e6 * 0.03 + 16e6 * 0.06) / (1 << 30), "as metered, it is more than its bytes"
    assert one.parts["network"] == pytest.approx(20 / 78, rel=1e-5), "each environment has its own"


def test_more_threads_and_less_than_one_processor() -> None:
    """Three vCPUs do a parallel job in a third of the time; half a vCPU takes twice as long, for updates too."""
    three = estimate(PROFILE, Setting(4, 5307, "replicated"), Basis())
    assert three.parts["compute"] == pytest.approx(0.035 / 3 + 0.005)
    half = estimate(PROFILE, Setting(4, 885, "replicated"), Basis())
    assert half.parts["compute"] == pytest.approx(0.040 * 1769 / 885)
    serial = estimate(replace(PROFILE, parallel=0.0), Setting(4, 5307, "replicated"), Basis())
    assert serial.parts["compute"] == pytest.approx(0.040)


def test_credit_that_runs_out() -> None:
    """A round of 4 ranks uses up some 37 MB of credit. With credit for ten of 1,010, a thousand take 36 s each."""
    setting = Setting(4, 1769, "replicated")
    used = traffic(PROFILE, setting).burst_credit_bytes
    profile = replace(PROFILE, steps=1010, valid_rows=0)
    poor = replace(AWS, credit=10.0 * used)
    one, rich = estimate(profile, setting, Basis(), poor), estimate(profile, setting, Basis())
    assert one.binds == "burst credit"
    assert one.seconds - rich.seconds == pytest.approx(1000 * (used / MIB - one.parts["EFS throughput"]))
    assert estimate(profile, setting, Basis(throughput="elastic"), poor).binds != "burst credit"


def test_settings_that_cannot_train_the_job() -> None:
    huge = replace(PROFILE, parameters=150_000_000, model_bytes=600_000_000)
    assert estimate(huge, Setting(4, 1769, "replicated"), Basis()).obstacles == ("a worker needs 3,262 MB",)
    assert estimate(huge, Setting(4, 3538, "replicated"), Basis()).obstacles == ()
    assert estimate(huge, Setting(4, 3538, "merge"), Basis()).obstacles == ("the merge needs 2,389 MB",)
    slow = replace(PROFILE, row_s=40.0)
    assert estimate(slow, Setting(4, 1769, "sharded"), Basis()).obstacles == ("a micro-batch does not fit 900 s",)
    assert not any(one.pareto for one in grid(slow, [1, 4], [1769], TOPOLOGIES, Basis()))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("parameters", [1, 1_000, 1_000_000, 30_000_000])
def test_plan_and_worker_say_the_same_of_the_memory(topology: Topology, workers: int, parameters: int) -> None:
    model = 4 * parameters + 1000
    profile = replace(PROFILE, parameters=parameters, model_bytes=model, worker_bytes=RUNTIME_BYTES)
    needed = estimate(profile, Setting(workers, 10240, topology), Basis()).memory_mb
    for memory_mb in (needed - 1, needed):
        worker = FunctionSettings(name="w", memory_mb=memory_mb, timeout_s=900)
        spec = spec_of("adam", functions={**FUNCTIONS, "worker": worker}, topology=topology, workers=workers)
        predicted = estimate(profile, Setting(workers, memory_mb, topology), Basis()).obstacles
        if memory_mb < needed:
            assert f"a worker needs {needed:,} MB" in predicted
            with pytest.raises(UsageError, match=f"A worker needs {needed:,} MB"):
                plan_memory(spec, model, 4 * parameters, ()).check(128)
        else:
            assert not any("a worker needs" in obstacle for obstacle in predicted)
            plan_memory(spec, model, 4 * parameters, ()).check(128)


def test_handovers_are_starts_that_are_paid() -> None:
    long = replace(PROFILE, steps=5000, valid_rows=0)
    one = estimate(long, Setting(4, 1769, "replicated"), Basis())
    legs = -(-int(5000 * one.round_s) // 900)
    assert legs == 3
    assert one.requests_usd == pytest.approx((1 + 4 * legs) * REQUEST_USD, rel=1e-5)
    assert one.compute_usd == pytest.approx((4 * (5000 * one.round_s + legs * START_S) + START_S) * SECOND_USD)


def test_a_machine_by_hand() -> None:
    """Two vCPUs: 50 rows each in two passes are 0.07 s, updating 3 / 2 million elements 0.0015 s; validation 0.05 s.

    60 + 20 * 0.0715 + 2 * 0.05 = 61.53 s at 2 * $0.0408 an hour.
    """
    (two,) = machines(PROFILE, Basis(), vcpus=(2,))
    assert two.seconds == pytest.approx(61.53)
    assert two.usd == pytest.approx(61.53 / 3600 * 0.0816)


# Properties of all predictions

PROFILES = st.builds(
    Profile,
    parameters=st.integers(1, 10**8),
    state_vectors=st.integers(0, 2),
    train_rows=st.integers(1000, 10**6),
    valid_rows=st.integers(0, 10**4),
    batch_size=st.integers(16, 1000),
    micro_batch_size=st.integers(1, 256),
    steps=st.integers(1, 10**5),
    epochs=st.integers(1, 100),
    row_s=st.floats(1e-7, 1e-1),
    pass_s=st.floats(0, 1e-1),
    valid_row_s=st.floats(1e-8, 1e-2),
    element_s=st.floats(1e-11, 1e-8),
    parallel=st.floats(0, 1),
    model_bytes=st.just(4_000_000),
    worker_bytes=st.just(300 * MIB),
)
SETTINGS = st.builds(Setting, st.integers(1, 64), st.sampled_from(MEMORY_MB), st.sampled_from(TOPOLOGIES))
BASES = st.sampled_from([Basis(), Basis(throughput="elastic"), Basis(architecture="x86_64")])


@given(PROFILES, SETTINGS, BASES, st.integers(1, 10**8))
def test_more_bytes_are_never_faster_nor_cheaper(
    profile: Profile, setting: Setting, basis: Basis, parameters: int
) -> None:
    less, more = sorted((profile.parameters, parameters))
    small, large = (estimate(replace(profile, parameters=p), setting, basis) for p in (less, more))
    assert small.round_s <= large.round_s
    assert small.seconds <= large.seconds
    assert small.usd <= large.usd * (1 + 1e-9)
    assert small.read_bytes <= large.read_bytes
    assert small.memory_mb <= large.memory_mb


@given(PROFILES, SETTINGS, BASES, st.integers(1, 10**5))
def test_more_rounds_are_never_faster_nor_cheaper(profile: Profile, setting: Setting, basis: Basis, steps: int) -> None:
    less, more = sorted((profile.steps, steps))
    small, large = (estimate(replace(profile, steps=count), setting, basis) for count in (less, more))
    assert small.seconds <= large.seconds
    assert small.usd <= large.usd * (1 + 1e-9)


@given(PROFILES, st.integers(1, 64), st.sampled_from(TOPOLOGIES), BASES)
def test_more_memory_and_a_faster_network_are_never_slower(
    profile: Profile, workers: int, topology: Topology, basis: Basis
) -> None:
    small, large = (estimate(profile, Setting(workers, memory, topology), basis) for memory in (1769, 10240))
    assert large.seconds <= small.seconds
    quick = estimate(profile, Setting(workers, 1769, topology), basis, replace(AWS, network=2 * AWS.network))
    assert quick.seconds <= small.seconds


@given(PROFILES, SETTINGS, BASES)
def test_parts_make_the_round(profile: Profile, setting: Setting, basis: Basis) -> None:
    one = estimate(profile, setting, basis)
    assert sum(one.parts.values()) == pytest.approx(one.round_s)
    assert one.seconds >= profile.steps * one.round_s
    assert one.usd == pytest.approx(one.compute_usd + one.requests_usd + one.efs_usd)
    assert one.binds in {*one.parts, "starting", "burst credit"}


@given(PROFILES, BASES)
def test_the_marked_ones_are_those_that_nothing_beats(profile: Profile, basis: Basis) -> None:
    found = grid(profile, [1, 2, 8], MEMORY_MB, TOPOLOGIES, basis)
    able = [one for one in found if not one.obstacles]
    marked = [one for one in found if one.pareto]
    assert all(one in able for one in marked)
    assert not any(b.seconds < a.seconds and b.usd < a.usd for a in marked for b in able)
    assert all(any(b.seconds <= a.seconds and b.usd <= a.usd for b in marked) for a in able)
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)


def test_no_more_workers_than_rows() -> None:
    assert {one.setting.workers for one in grid(PROFILE, [1, 100, 101], [1769], TOPOLOGIES, Basis())} == {1, 100}


def test_more_processors_of_a_machine_are_never_slower() -> None:
    times = [vm.seconds for vm in machines(PROFILE, Basis())]
    assert times == sorted(times, reverse=True)


def made(seconds: float, usd: float) -> Estimate:
    return Estimate(Setting(1, 1769, "merge"), seconds, 1.0, 1.0, {}, usd, 0.0, 0.0, 1, 1, 1, "compute")


@pytest.mark.parametrize(
    ("vms", "expected"),
    [
        ([Machine(2, 5.0, 0.5)], "one VM is cheaper and faster than every setting: 2 vCPUs"),
        ([Machine(1, 50.0, 0.5), Machine(8, 5.0, 9.0)], "one VM is cheaper, and a larger one is faster"),
        ([Machine(1, 50.0, 0.5)], "one VM is cheaper; functions are faster"),
        ([Machine(1, 50.0, 2.0)], "functions are cheaper and faster than one VM"),
        ([Machine(1, 5.0, 2.0)], "functions are cheaper; one VM is faster"),
    ],
)
def test_the_verdict(vms: list[Machine], expected: str) -> None:
    estimates = pareto([made(10.0, 4.0), made(20.0, 1.0)])
    assert [one.pareto for one in estimates] == [True, True]
    assert verdict(estimates, vms) == expected
