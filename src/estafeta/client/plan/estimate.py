"""Time and dollars of a run on AWS, predicted for any number of workers, memory and topology, and for one machine.

A round is a sum of parts, one after the other (`round.py`); the largest part binds. The prediction leaves out
stragglers, retries, caches, and work that overlaps with waiting. So it compares settings better than it predicts one.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from estafeta.client.plan import round as one_round
from estafeta.client.plan.round import AWS, Aws, Profile, Setting
from estafeta.cost.cost import Basis, access_usd, invocation_usd, second_usd
from estafeta.protocol.spec import Topology


@dataclass(frozen=True)
class Estimate:
    """The time, dollars, memory and traffic of a setting.

    Attributes:
        round_s: Seconds of a train round.
        start_s: Seconds of a cold start.
        parts: Seconds of a train round: `compute`, `latency`, and `network` or `EFS throughput` for moving bytes.
        compute_usd: Dollars for the GB-seconds of all functions.
        requests_usd: Dollars for their invocations, and for the lines that each of them logs.
        efs_usd: Dollars for access to the file system.
        memory_mb: Memory that a worker needs.
        read_bytes: Bytes that all functions read in a train round; `write_bytes`: that they write.
        binds: Part that takes most of the time: of the round, `starting`, or `burst credit` if that runs out.
        obstacles: Reasons why the setting cannot train the job; empty if it can.
        pareto: Whether no other setting is both faster and cheaper.
    """

    setting: Setting
    seconds: float
    round_s: float
    start_s: float
    parts: Mapping[str, float]
    compute_usd: float
    requests_usd: float
    efs_usd: float
    memory_mb: int
    read_bytes: int
    write_bytes: int
    binds: str
    obstacles: tuple[str, ...] = ()
    pareto: bool = False

    @property
    def usd(self) -> float:
        """Dollars for the whole run."""
        return self.compute_usd + self.requests_usd + self.efs_usd


@dataclass(frozen=True)
class Machine:
    """One virtual machine that trains the same job: its processors, seconds from its start on, dollars."""

    vcpus: int
    seconds: float
    usd: float


def estimate(profile: Profile, setting: Setting, basis: Basis, aws: Aws = AWS) -> Estimate:
    """Predict time, dollars, memory and traffic of a setting."""
    workers, steps, prices = setting.workers, profile.steps, basis.prices
    epochs = profile.epochs if profile.valid_rows else 0
    share, update, waits = (
        one_round.share_s(profile, setting),
        one_round.update_s(profile, setting, aws),
        one_round.latency(setting, aws),
    )
    moving, limit = one_round.transfer_s(*one_round.rank_bytes(profile, setting), workers, basis, aws)
    worker_s, merge_s = share + moving + waits.worker, 0.0
    if setting.merges:
        merging, merging_limit = one_round.transfer_s(*one_round.merge_bytes(profile, workers), 1, basis, aws)
        merge_s = update + merging + waits.merge
        limit = merging_limit if merging > moving else limit
        moving += merging
    else:
        worker_s += update
    round_s = worker_s + merge_s + waits.way
    parts = {"compute": share + update, limit: moving, "latency": sum(waits)}

    scoring_s = one_round.valid_s(profile, setting) + waits.worker
    used = one_round.traffic(profile, setting)
    starving_s = 0.0
    if basis.throughput == "bursting":
        rounds = max(0.0, steps - aws.credit / used.burst_credit_bytes)
        starving_s = rounds * max(0.0, used.burst_credit_bytes / aws.baseline - moving)
    start_s = aws.start_s + aws.start_vcpu_s / setting.vcpus
    train_s = steps * round_s + epochs * (scoring_s + waits.merge + waits.way) + starving_s
    legs = 1 if setting.merges else max(1, math.ceil(train_s / aws.limit_s))

    worker_billed_s = workers * (steps * worker_s + epochs * scoring_s + starving_s + legs * start_s) + start_s
    merge_billed_s = steps * merge_s + (epochs * waits.merge if setting.merges else 0.0)
    compute_usd = worker_billed_s * second_usd(setting.memory_mb, basis) + merge_billed_s * second_usd(
        aws.merge_mb, basis
    )
    invocations = 1 + ((workers + 1) * (steps + epochs) if setting.merges else workers * legs)
    efs_usd = steps * access_usd(used, prices) + epochs * access_usd(one_round.valid_traffic(setting), prices)
    memory_mb, stands_against = one_round.obstacles(profile, setting, share, aws)
    binds = max(parts, key=lambda part: parts[part])
    if starving_s > train_s / 2:
        binds = "burst credit"
    elif 2 * start_s > train_s:  # one start to prepare, then all workers at once
        binds = "starting"
    return Estimate(
        setting=setting,
        seconds=2 * start_s + train_s,
        round_s=round_s,
        start_s=start_s,
        parts=parts,
        compute_usd=compute_usd,
        requests_usd=invocations * invocation_usd(prices),
        efs_usd=efs_usd if basis.throughput == "elastic" else 0.0,
        memory_mb=memory_mb,
        read_bytes=used.read_bytes,
        write_bytes=used.write_bytes,
        binds=binds,
        obstacles=stands_against,
    )


def grid(
    profile: Profile, workers: Iterable[int], memory_mb: Sequence[int], topologies: Sequence[Topology], basis: Basis
) -> list[Estimate]:
    """Return estimates of all combinations, the fastest first, with the Pareto set marked."""
    most = min(profile.batch_size, profile.train_rows)
    settings = itertools.product([count for count in workers if count <= most], memory_mb, topologies)
    found = [estimate(profile, Setting(*choices), basis) for choices in settings]
    return pareto(sorted(found, key=lambda one: (one.seconds, one.usd)))


def pareto(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the same estimates; those that can train the job, and that no other beats in both ways, are marked."""
    able = [one for one in estimates if not one.obstacles]

    def is_beaten(one: Estimate) -> bool:
        mine = one.seconds, one.usd
        return any(o.seconds <= one.seconds and o.usd <= one.usd and (o.seconds, o.usd) != mine for o in able)

    return [Estimate(**{**vars(one), "pareto": not one.obstacles and not is_beaten(one)}) for one in estimates]


def machines(profile: Profile, basis: Basis, aws: Aws = AWS, vcpus: Sequence[int] = (1, 2, 4, 8, 16)) -> list[Machine]:
    """Return the time and dollars of one EC2 instance (m7g), for each number of processors.

    The instance takes the better of two ways: threads that share each pass, or a process for each processor. These
    processes share each batch, and exchange nothing but memory. EC2 bills by the second, at least a minute, with
    booting.
    """
    found = []
    for count in vcpus:
        rows, update_s = profile.batch_size, (count + 1) * profile.parameters * profile.element_s / count
        threads_s = one_round.passes_s(profile, rows) * one_round.amdahl(profile.parallel, count)
        processes_s = one_round.passes_s(profile, -(-rows // count))
        valid_s = profile.valid_rows * profile.valid_row_s / count
        work_s = profile.steps * (min(threads_s, processes_s) + update_s) + profile.epochs * valid_s
        seconds = aws.boot_s + work_s
        found.append(Machine(count, seconds, max(60.0, seconds) / 3600 * basis.prices.vm_hour * count))
    return found


def verdict(estimates: Sequence[Estimate], vms: Sequence[Machine]) -> str:
    """Return a sentence that says whether functions or one virtual machine are the better place."""
    able = [one for one in estimates if not one.obstacles]
    if not able:
        return "no setting of the grid can do it"
    cheapest, fastest = min(able, key=lambda one: one.usd), min(able, key=lambda one: one.seconds)
    cheapest_vm, fastest_vm = min(vms, key=lambda one: one.usd), min(vms, key=lambda one: one.seconds)
    both = [vm for vm in vms if vm.usd <= cheapest.usd and vm.seconds <= fastest.seconds]
    if both:
        return f"one VM is cheaper and faster than every setting: {both[0].vcpus} vCPUs"
    if cheapest_vm.usd <= cheapest.usd:
        if fastest_vm.seconds <= fastest.seconds:
            return "one VM is cheaper, and a larger one is faster"
        return "one VM is cheaper; functions are faster"
    if cheapest.seconds <= min(vm.seconds for vm in vms):
        return "functions are cheaper and faster than one VM"
    return "functions are cheaper; one VM is faster"
