"""`estafeta local`: the local Lambda service by itself. Training starts it when it is needed; nobody has to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import EXISTING_FILE, FOLDER, Manners, speaks

if TYPE_CHECKING:
    from estafeta.local import Endpoint


@click.group(epilog="Example: estafeta local status")
def local() -> None:
    """Manage the Lambda service on this machine.

    Commands that need it start it, and it ends by itself when idle.
    """


@local.command(epilog="Example: estafeta local serve --faults kill=0.05,seed=3")
@click.option("--root", type=FOLDER, metavar="DIR", help="Folder that stands for EFS.")
@click.option(
    "--template",
    type=EXISTING_FILE,
    metavar="FILE",
    help="CloudFormation template with the functions; by default Estafeta's own.",
)
@click.option("--account-limit", type=click.IntRange(min=1), default=1000, help="Most invocations at a time.")
@click.option(
    "--retry-delay-scale",
    type=click.FloatRange(min=0),
    default=1 / 60,
    show_default="1/60",
    help="Factor on Lambda's minutes between attempts.",
)
@click.option(
    "--faults",
    default="",
    show_default=False,
    metavar="NAME=P,…",
    help="Faults to inject, such as kill=0.05,duplicate=0.1,seed=3.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=float("inf"),
    show_default="never",
    help="End after this long without work.",
)
@speaks()
def serve(_manners: Manners, /, root: str | None, template: str | None, idle_timeout: float, **options: Any) -> None:
    """Run the service in the foreground; runs that are started meanwhile use it as it is."""
    from estafeta.client.backend import home
    from estafeta.client.connect import TEMPLATE
    from estafeta.client.connect import serve as serve_here
    from estafeta.local import Options

    template_path, store = Path(template or TEMPLATE).absolute(), Path(root or home() / "store").absolute()
    serve_here(Options(template_path, store, idle_timeout_s=idle_timeout, **options), say=click.echo)


@local.command(epilog="Example: estafeta local status")
@speaks("json")
def status(manners: Manners) -> None:
    """Tell whether the service runs, and how busy it is."""
    from estafeta.client.backend import home
    from estafeta.local import find

    console, running = manners.console(), find(home())
    facts = {"home": str(home()), "running": running is not None, **(_facts(running) if running else {})}
    lines = [("local", f"no service runs in {home()}")]
    if running:
        busy = f"{facts['invocations']} invocations at work, {facts['events']} events waiting"
        lines = [("local", f"{facts['url']}   process {facts['pid']}, in {home()}"), ("busy", busy)]
    console.answer(facts, lines)


@local.command(epilog="Example: estafeta local stop")
@speaks("json")
def stop(manners: Manners) -> None:
    """End the service with everything that runs in it; runs can be resumed later."""
    from estafeta.client.backend import home
    from estafeta.local import stop as stop_service

    console, stopped = manners.console(), stop_service(home())
    facts = {"home": str(home()), "stopped": stopped}
    console.answer(facts, [("local", "stopped" if stopped else f"no service runs in {home()}")])


def _facts(running: Endpoint) -> dict[str, Any]:
    from estafeta.local.endpoint import ask

    answer = ask(running, "GET")
    return {"url": running.url, "pid": running.pid, "invocations": answer["running"], "events": answer["waiting"]}
