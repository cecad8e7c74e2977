"""`estafeta plan`: what a job would take on AWS, before it is run there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.commands.train import job_file, job_option
from estafeta.cli.options import Manners, choice, speaks

if TYPE_CHECKING:
    from estafeta.client.plan.estimate import Estimate, Machine
    from estafeta.client.plan.round import Profile
    from estafeta.cost.cost import Basis
    from estafeta.protocol.spec import Topology

WORKERS = "1,2,4,8,16"
MEMORY_MB = "1769,3538,7076,10240"
TOPOLOGIES: tuple[Topology, ...] = ("merge", "sharded", "replicated")


def _numbers(_context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of whole numbers, such as 1,2,4") from error
    if min(found) < 1:
        raise click.BadParameter(f"{min(found)} is below 1")
    if parameter.name == "memory" and (min(found) < 128 or max(found) > 10_240):
        raise click.BadParameter(f"{text}: a function has 128 to 10240 MB")
    return found


@click.command(epilog="Example: estafeta plan examples/digits.py -n 1,4,16 -o epochs=5")
@click.argument("job", metavar="JOB.py[:NAME]", callback=job_file)
@click.option("--on", type=click.Choice(["aws"]), default="aws", help="Where it would run.")
@click.option("-n", "--workers", default=WORKERS, callback=_numbers, help="Numbers of workers.")
@click.option("--memory", default=MEMORY_MB, callback=_numbers, help="Memory of a worker, in MB.")
@job_option("Change the job: epochs, batch_size …")
@click.option("--region", default="us-east-1", help="Region whose prices are used.")
@choice("--architecture", "arm64", "x86_64")
@choice("--throughput", "bursting", "elastic", help="Throughput mode of the file system.")
@click.option("--all", "everything", is_flag=True, help="Show every setting, not only the Pareto set.")
@speaks("json", "quiet")
def plan(manners: Manners, /, job: str, options: dict[str, str], **choices: Any) -> None:
    """Predict what a job would take on AWS, in time and dollars.

    One virtual machine is shown for comparison. A few batches are trained here to measure the job; nothing is
    started or paid for. Times are those of functions as fast as this machine, so they are good for comparing.
    """
    from estafeta.client.plan.estimate import grid, machines, verdict
    from estafeta.cost.cost import Basis

    console = manners.console()
    basis = Basis(region=choices["region"], architecture=choices["architecture"], throughput=choices["throughput"])
    with contextlib.redirect_stdout(sys.stderr) if manners.json else contextlib.nullcontext():
        console.lively(f"measuring   {job}")
        try:
            profile = _measure(job, options)
        finally:
            console.still()
    estimates = grid(profile, choices["workers"], choices["memory"], TOPOLOGIES, basis)
    vms = machines(profile, basis)
    if manners.json:
        console.json(_facts(profile, basis, estimates, vms))
        return
    shown = [one for one in estimates if one.pareto or choices["everything"]]
    console.talk(_described(job, profile))
    if shown:
        console.table(COLUMNS, [_row(one) for one in shown], spare=("compute", "requests", "efs", "bytes"))
    if len(shown) < len(estimates):
        obstacles = sorted({what for one in estimates for what in one.obstacles})
        left_out = f"{len(estimates) - len(shown)} settings are left out as slower and dearer: --all shows them"
        console.talk([("note", left_out), *([("", "; ".join(obstacles))] if obstacles else [])])
    console.results(_compared(basis, estimates, vms, verdict(estimates, vms)))


def _measure(job: str, options: Mapping[str, str]) -> Profile:
    from estafeta.client.backend import home
    from estafeta.client.connect import connect
    from estafeta.client.launch import spec_for
    from estafeta.client.plan.measure import profile
    from estafeta.client.source import import_job
    from estafeta.store.store import Store

    found, place, _ = import_job(job)
    backend = connect("inline")
    spec, found = spec_for(found, place, backend=backend, workers=1, topology="merge", options=options)
    return profile(found, spec, Store(home() / "store"))


COLUMNS = "workers", "memory", "topology", "time", "dollars", "compute", "requests", "efs", "a round", "bytes", "binds"


def _row(one: Estimate) -> list[str]:
    from estafeta.client.units import clock, dollars, size

    setting = one.setting
    workers, memory = f"{setting.workers}{'*' if one.pareto else ''}", f"{one.memory_mb:,} of {setting.memory_mb:,} MB"
    usd = [dollars(amount) for amount in (one.usd, one.compute_usd, one.requests_usd, one.efs_usd)]
    binds = BINDS.get(one.binds, one.binds) if not one.obstacles else f"impossible: {one.obstacles[0]}"
    moved = size(one.read_bytes + one.write_bytes)
    return [workers, memory, setting.topology, clock(one.seconds), *usd, _short(one.round_s), moved, binds]


BINDS = {"network": "network, 78 MB/s", "burst credit": "EFS, out of burst credit"}


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _described(job: str, profile: Profile) -> list[tuple[str, str]]:
    from estafeta.client.units import size

    rows = 1 / (profile.row_s + profile.pass_s / profile.micro_batch_size)
    return [
        ("model", f"{job}   {profile.parameters:,} parameters, {size(profile.vector_bytes)}"),
        ("here", f"{rows:,.0f} rows a second on one thread, more threads share {profile.parallel:.0%} of that"),
        ("run", f"{profile.steps:,} rounds of {profile.batch_size:,} rows, {profile.epochs} epochs"),
    ]


def _compared(
    basis: Basis, estimates: Sequence[Estimate], vms: Sequence[Machine], verdict: str
) -> list[tuple[str, str]]:
    from estafeta.client.plan.round import AWS
    from estafeta.client.units import clock, dollars

    able = [one for one in estimates if not one.obstacles]
    start_s = max((one.start_s for one in able), default=0.0)
    lines = [("EC2", ", ".join(f"{vm.vcpus} vCPU {clock(vm.seconds)} {dollars(vm.usd)}" for vm in vms))]
    lines.append(("verdict", verdict))
    if start_s > AWS.init_limit_s:
        least = min(one.setting.memory_mb for one in able)
        lines.append(("note", f"a cold start takes about {start_s:.0f} s with {least} MB, more than an init phase may"))
        lines.append(("", "PyTorch is therefore imported by the handler, and not twice"))
    lines.append(
        ("prices", f"{basis.describe()}; EC2 m7g, a minute to boot; requests with their logs; nothing for storage")
    )
    return lines


def _facts(profile: Profile, basis: Basis, estimates: Sequence[Estimate], vms: Sequence[Machine]) -> dict[str, Any]:
    from dataclasses import asdict

    from estafeta.client.plan.estimate import verdict
    from estafeta.client.plan.round import AWS

    return {
        "profile": asdict(profile),
        "prices": basis.describe(),
        "assumptions": asdict(AWS),
        "estimates": [{**asdict(one.setting), **_without_setting(asdict(one)), "usd": one.usd} for one in estimates],
        "ec2": [asdict(vm) for vm in vms],
        "verdict": verdict(estimates, vms),
    }


def _without_setting(facts: dict[str, Any]) -> dict[str, Any]:
    """An estimate beside the fields of its setting; the worker's need is told from what it is given."""
    facts["needed_mb"] = facts.pop("memory_mb")
    del facts["setting"]
    return facts
