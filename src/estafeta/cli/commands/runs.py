"""Commands about runs that there are: `runs`, `status`, `inspect`, `logs`, `stop`, `export`, `report`, `clean`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import FOLDER, Manners, ask, of_run, on_service, speaks, yes
from estafeta.cli.place import Place, attach, find_run
from estafeta.errors import Command, UsageError

if TYPE_CHECKING:
    from estafeta.cli.console import Console
    from estafeta.client.run import Run
    from estafeta.protocol.spec import Role, Status, Which

MOST_RUNS = 20
"""Runs that are listed at most, unless all are asked for."""
MOST_EPOCHS = 20
"""Epochs that `status` shows at most."""


@click.command(epilog="Example: estafeta runs --all")
@on_service
@click.option("--all", "everything", is_flag=True, help=f"All of them, not only the newest {MOST_RUNS}.")
@speaks("json")
def runs(manners: Manners, on: Place, everything: bool) -> None:
    """List the runs, the newest last."""
    from estafeta.client.find_run import all_runs
    from estafeta.client.units import ago

    backend, console, now = attach(on), manners.console(), time.time()
    found, unreadable = all_runs(backend)
    shown = found if everything else found[-MOST_RUNS:]
    latest = [_latest(status, backend) for status in shown]
    _warn(unreadable, console)
    if manners.json:
        console.json({"runs": [_facts(status, value) for status, value in zip(shown, latest, strict=True)]})
        return
    if not found:
        console.talk([("runs", "none yet"), ("next", f"{Command('estafeta', 'train', 'JOB.py')}")])
        return
    console.table(
        ("run", "state", "job", "workers", "epoch", "metric", "started"),
        [(*_cells(s, value), ago(now - s.spec.created_at)) for s, value in zip(shown, latest, strict=True)],
        spare=("workers", "job"),
    )
    if len(shown) < len(found):
        everything_ = Command("estafeta", "runs", "--all")
        console.note(f"the oldest {len(found) - len(shown)} are left out: {everything_}")


@click.command(epilog="Example: estafeta status last")
@of_run
@speaks("json")
def status(manners: Manners, run: Run) -> None:
    """Show the state of a run, its epochs and its cost."""
    from estafeta.cli.words import run as words
    from estafeta.cli.words.error import of_failure
    from estafeta.client.run import history_of

    console = manners.console()
    status = run.full_status()
    summary = run.summary_of(status)
    if manners.json:
        console.json({**summary.to_dict(), "history": history_of(status)})
        return
    console.results(words.identity(status, run.on) + words.plan(status) + words.standing(status, time.time()))
    console.results(words.limits(status) + words.best(status, summary) + words.late(summary))
    console.results(words.bill(summary) + words.chaos(summary))
    if status.outcome and (failure := status.outcome.failure):
        console.results(of_failure(failure, run.name, run.on).lines())
    console.epochs(status).show(status, last=MOST_EPOCHS)


@click.command(epilog="Example: estafeta logs last --rank 1 -n 50")
@of_run
@click.option("--function", "role", type=click.Choice(["worker", "merge", "control"]), help="Only of this function.")
@click.option("--rank", type=click.IntRange(min=0), help="Only of this worker.")
@click.option("--follow", "-f", "following", is_flag=True, help="Go on until the run has ended.")
@click.option("-n", "most", type=click.IntRange(min=1), metavar="LINES", help="Only the last lines.")
@speaks()
def logs(manners: Manners, run: Run, role: Role | None, rank: int | None, following: bool, most: int | None) -> None:
    """Print what the functions of a run have logged.

    Each line begins with function, rank and round. Without --function, worker and merge are shown.
    """
    from estafeta.cli.words import log as words

    console = manners.console()
    wanted = words.Wanted((role,) if role else ("worker", "merge"), rank)
    given = 0
    for number, lines in enumerate(words.batches(run, wanted, follow=following)):
        for line in lines[-most:] if most and number == 0 else lines:
            console.result(line)
            given += 1
    if not given:
        console.note(f"no function of {run.name} that was asked for has logged anything; inline runs log nothing")


@click.command(epilog="Example: estafeta stop last")
@of_run
@speaks("json")
def stop(manners: Manners, run: Run) -> None:
    """Stop a run; its weights are kept, and it can be resumed."""
    from estafeta.cli.words import run as words

    console = manners.console()
    status = run.stop_and_wait()
    if manners.json:
        console.json(run.summary().to_dict())
    else:
        console.results(words.standing(status, time.time()))


@click.command(epilog="Example: estafeta export last --which best -d models/digits")
@of_run
@click.option("--which", type=click.Choice(["best", "final"]), default="final", help="Which weights.")
@click.option("-d", "--dir", "folder", type=FOLDER, metavar="DIR", help="Where to; by default runs/RUN/WHICH.")
@speaks("json")
def export(manners: Manners, run: Run, which: Which, folder: str | None) -> None:
    """Fetch a run's weights as safetensors."""
    console = manners.console()
    path = run.export(folder or Path("runs", run.name, which), which)
    console.answer({"run": run.name, "which": which, "model_path": str(path.absolute())}, str(path))


@click.command(epilog="Example: estafeta report last -o digits.html")
@of_run
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Where to; by default RUN.html.")
@speaks("json")
def report(manners: Manners, run: Run, output: str | None) -> None:
    """Write a page about a run: its metrics, where time and money went, how it was run."""
    console = manners.console()
    path = run.report(output or f"{run.name}.html")
    console.answer({"run": run.name, "report_path": str(path.absolute())}, str(path))


@click.command(epilog="Example: estafeta clean digits-1a2b3c digits-4d5e6f")
@click.argument("names", metavar="[RUN]...", nargs=-1)
@on_service
@click.option("--all", "everything", is_flag=True, help="All runs that have ended.")
@click.option("--keep-final", is_flag=True, help="Leave the exported weights and the records; the rest goes.")
@yes
@speaks("json")
def clean(manners: Manners, names: tuple[str, ...], on: Place, everything: bool, keep_final: bool, yes: bool) -> None:
    """Remove runs that have ended from the store.

    Their weights go with them; what was exported to your own folders stays. With --keep-final a run can still be
    looked at and exported, but neither resumed nor forked.
    """
    if names and everything:
        raise UsageError("--all takes all runs", hint="leave out the names, or --all")
    if not names and not everything:
        hint = f"{Command('estafeta', 'runs')} lists them; --all takes all that have ended"
        raise UsageError("Name the runs to remove", hint=hint)
    console = manners.console()
    found = _ended(on, console) if everything else [find_run(name, on) for name in names]
    chosen = {run.name: run for run in found}
    if chosen and not yes:
        _ask(list(chosen), keep_final)
    for run in chosen.values():
        run.clean(keep_final=keep_final)
    done, what = ("kept", "   its exports and records") if keep_final else ("removed", "")
    console.answer({done: list(chosen)}, [(done, name + what) for name in chosen])


@click.command(epilog="Example: estafeta inspect last --rounds 2")
@of_run
@click.option("--rounds", type=click.IntRange(min=1), default=4, help="How many rounds to show, the newest first.")
@speaks("json")
def inspect(manners: Manners, run: Run, rounds: int) -> None:
    """Show what lies in a run's folder.

    Who contributed what to each round that is still there, the saved versions, the legs of the workers, and what is
    next, all told from the files alone.
    """
    from estafeta.cli.words import inspection as words

    found, console = run.inspect(rounds), manners.console()
    if manners.json:
        console.json(found.model_dump(mode="json"))
        return
    console.results(words.standing(found))
    for part in (words.contributions, words.partials, words.versions, words.legs):
        columns, rows = part(found)
        if rows:
            console.result("")
            console.table(columns, rows)
    if found.older_rounds:
        console.note(f"{found.older_rounds} older rounds are left out: --rounds {found.older_rounds + rounds}")


COMMANDS = (runs, status, logs, stop, export, report, clean, inspect)


def _ended(on: Place, console: Console) -> list[Run]:
    """All runs that have ended; those that have not are named."""
    from estafeta.client.find_run import all_runs
    from estafeta.client.run import ENDED, Run

    backend = attach(on)
    found, unreadable = all_runs(backend)
    _warn(unreadable, console)
    at_work = [status.spec.run for status in found if status.state not in ENDED]
    ended = [Run(status.spec.run, backend) for status in found if status.state in ENDED]
    if at_work:
        console.note(f"not ended, and left alone: {', '.join(at_work)}")
    if not ended:
        console.note("there is no run that has ended")
    return ended


def _warn(unreadable: list[str], console: Console) -> None:
    if unreadable:
        note = f"cannot be read: {', '.join(unreadable)}; damaged, or of another version of Estafeta"
        console.note(note)


def _ask(names: list[str], keep_final: bool) -> None:
    which = names[0] if len(names) == 1 else f"{len(names)} runs ({', '.join(names)})"
    what = "all but the exports and records of " if keep_final else ""
    ask(f"Remove {what}{which} from the store?")


def _facts(status: Status, value: float | None) -> dict[str, Any]:
    """A run in the list, for a machine."""
    spec = status.spec
    return {
        "run": spec.run,
        "state": status.state,
        "job": spec.job,
        "workers": spec.workers,
        "epoch": status.epoch,
        "epochs": spec.epochs,
        "steps": status.version,
        "monitor": spec.early_stopping.monitor,
        "value": value,
        "created_at": spec.created_at,
    }


def _cells(status: Status, value: float | None) -> tuple[str, ...]:
    """The same for a reader, without the time."""
    from estafeta.client.units import number

    spec = status.spec
    metric = f"{spec.early_stopping.monitor} {number(value)}" if value is not None else ""
    return spec.run, status.state, spec.job, str(spec.workers), f"{status.epoch}/{spec.epochs}", metric


def _latest(status: Status, backend: Any) -> float | None:
    """The monitored metric of a run's newest epoch."""
    if not status.epoch:
        return None
    from estafeta.client.run import Run

    records = Run(status.spec.run, backend).status(since_epoch=status.epoch - 1).epochs
    return records[-1].metrics.get(status.spec.early_stopping.monitor) if records else None
