"""Commands that stay with a run until its end: `train`, `watch`, `resume`, `fork`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import (
    EXISTING_FILE,
    LIMITS,
    Manners,
    detach,
    limit_options,
    limits_of,
    of_run,
    on_any,
    output_dir,
    speaks,
)
from estafeta.cli.place import Place
from estafeta.errors import Command, UsageError

if TYPE_CHECKING:
    from estafeta.cli.console import Console
    from estafeta.client.run import Run
    from estafeta.protocol.spec import Which


def job_option(text: str) -> Callable[[Any], Any]:
    """The option `-o`; the command gets `options` by name."""
    return click.option("-o", "options", multiple=True, metavar="KEY=VALUE", callback=_pairs, help=text)


def job_file(_context: click.Context, _parameter: click.Parameter, place: str) -> str:
    """Refuse a job file that does not exist before anything is started for it."""
    file = place.partition(":")[0]
    if not Path(file).is_file():
        raise UsageError(f"There is no job file {file}", hint="name it as JOB.py or JOB.py:NAME")
    return place


def _pairs(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """What `-o` gives, by name."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise UsageError(f"-o {name}: there is no value", hint="write -o name=value, such as -o epochs=5")
    return {name: value for name, _, value in pairs}


@click.command(epilog="Example: estafeta train digits.py -n 4 -o epochs=5 -o optimizer.lr=0.01")
@click.argument("job", metavar="JOB.py[:NAME]", callback=job_file)
@click.option("-n", "--workers", type=click.IntRange(min=1), default=2, help="Workers that share each batch.")
@click.option(
    "--topology",
    type=click.Choice(["auto", "merge", "sharded", "replicated"]),
    default="auto",
    help="Who combines the gradients: a merge function, each worker a slice, each worker everything.",
)
@on_any
@job_option("Change the job or the functions: epochs, optimizer.lr, model.hidden, worker.timeout_s …")
@limit_options
@output_dir
@click.option(
    "--template", type=EXISTING_FILE, metavar="FILE", help="CloudFormation template to read in place of Estafeta's own."
)
@click.option(
    "--chaos",
    default="",
    show_default=False,
    metavar="FAULT=P,…",
    help="Faults to inject into this run: duplicate, drop, delay, kill, slow by probability, and a seed.",
)
@detach
@speaks("json", "quiet")
def train(
    manners: Manners, /, job: str, on: Place, template: str | None, output_dir: str, detach: bool, **choices: Any
) -> int:
    """Train a job, and follow it to its end.

    A run that reaches a limit (--max-cost, --max-hours, --max-rounds) stops by itself within a round, keeps its
    weights, and can be resumed; the exit code is 0. Ctrl-C leaves the run to itself; Ctrl-C twice stops it.
    """
    from estafeta.client.launch import check_chaos

    check_chaos(choices["chaos"], on.name)
    if on.name == "inline" and detach:
        raise UsageError("An inline run takes place in this process, it cannot be left", hint="--on local --detach")
    if on.name == "aws" and template:
        raise UsageError("On AWS the functions are those that are deployed", hint="leave out --template")
    console = manners.console()
    # With --json, what the user's own code prints must not get between us and the reader.
    with contextlib.redirect_stdout(sys.stderr) if manners.json else contextlib.nullcontext():
        if on.name != "inline":
            console.lively(f"starting   importing {job}, looking for the functions")
        try:
            limits = limits_of(**{name: choices.pop(name) for name in LIMITS})
            run = _start(job, on, Path(template) if template else None, console, limits=limits, **choices)
        finally:
            console.still()
        return _stay(run, console, manners.began, output_dir, detach)


def _stay(run: Run, console: Console, began: float, output_dir: str, detach: bool) -> int:
    from estafeta.cli.follow import Watch

    watch = Watch(run, console, began, Path(output_dir))
    return watch.leave() if detach else watch.attend()


def _start(job: str, on: Place, template: Path | None, console: Console, **choices: Any) -> Run:
    """Import the job, which imports torch, while the service starts."""
    from estafeta.client.connect import connect
    from estafeta.client.launch import start
    from estafeta.client.source import import_job

    command = [job, *(word for pair in on.options.items() for word in pair)]
    command += ["--template", str(template)] if template else []
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect, on.name, template=template, **on.choices)
        imported = import_job(job)
        backend = connecting.result()
    try:
        show = partial(console.portion, unit="bytes")
        return start(*imported, backend=backend, command=command, show=show, **choices)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted while the run was being started: see {Command('estafeta', 'runs')}"
        ) from None


@click.command(epilog="Example: estafeta watch last")
@of_run
@speaks("json", "quiet")
def watch(manners: Manners, run: Run) -> int:
    """Follow a run to its end."""
    from estafeta.cli.follow import Watch

    return Watch(run, manners.console(), manners.began).attend()


@click.command(epilog="Example: estafeta resume last")
@of_run
@limit_options
@output_dir
@detach
@speaks("json", "quiet")
def resume(manners: Manners, /, run: Run, output_dir: str, detach: bool, **limits: Any) -> int:
    """Set a stopped or failed run going again.

    It goes on from its newest weights, and is followed as in train. Its limits still hold, except those that are given
    here: a new value, or "none" to lift one.
    """
    run.resume(**limits_of(**limits))
    return _stay(run, manners.console(), manners.began, output_dir, detach)


def _version(_context: click.Context, _parameter: click.Parameter, text: str) -> str | int:
    if text.isdecimal():
        return int(text)
    if text not in ("best", "final"):
        raise UsageError(f"--from {text}: that is no version", hint="a version is a number of steps, `best` or `final`")
    return text


@click.command(epilog="Example: estafeta fork last --from best -o epochs=30 -o optimizer.lr=0.001")
@click.option(
    "--from",
    "version",
    default="final",
    metavar="VERSION",
    callback=_version,
    help="Where to begin: a number of steps, best or final.",
)
@job_option("What is to be different: epochs, optimizer.lr, early_stopping.patience, worker.timeout_s …")
@of_run
@output_dir
@detach
@speaks("json", "quiet")
def fork(
    manners: Manners, run: Run, version: Which | int, options: dict[str, str], output_dir: str, detach: bool
) -> int:
    """Start a new run from a version of another, and follow it.

    It has the code, data, options and epochs so far of the other, except for the options that are changed.
    """
    return _stay(run.fork(version, options), manners.console(), manners.began, output_dir, detach)


COMMANDS = (train, watch, resume, fork)
