"""`estafeta local`: the local Lambda service by itself. Training starts it when it is needed; nobody has to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import Manners, json_output, verbose

if TYPE_CHECKING:
    from estafeta.local import Endpoint


@click.group(epilog="Example: estafeta local status")
def local() -> None:
    """Manage the Lambda service on this machine.

    Commands that need it start it, and it ends by itself when idle.
    """


@local.command(epilog="Example: estafeta local serve --faults kill=0.05,seed=3")
@click.option("--root", type=click.Path(file_okay=False), metavar="DIR", help="Folder that stands for EFS.")
@click.option(
    "--template",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="CloudFormation template with the functions; by default Estafeta's own.",
)
@click.option(
    "--account-limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Most invocations at a time."
)
@click.option(
    "--retry-delay-scale",
    type=click.FloatRange(min=0),
    default=1 / 60,
    show_default="1/60",
    help="Factor on Lambda's minutes between attempts.",
)
@click.option(
    "--faults", default="", metavar="NAME=P,…", help="Faults to inject, such as kill=0.05,duplicate=0.1,seed=3."
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=float("inf"),
    show_default="never",
    help="End after this long without work.",
)
@verbose
def serve(
    root: str | None,
    template: str | None,
    account_limit: int,
    retry_delay_scale: float,
    faults: str,
    idle_timeout: float,
) -> int:
    """Run the service in the foreground; runs that are started meanwhile use it as it is."""
    from estafeta.client.backend import home
    from estafeta.client.connect import TEMPLATE
    from estafeta.client.connect import serve as serve_here
    from estafeta.local import Options

    options = Options(
        template=Path(template or TEMPLATE).absolute(),
        root=Path(root or home() / "store").absolute(),
        account_limit=account_limit,
        retry_delay_scale=retry_delay_scale,
        faults=faults,
        idle_timeout_s=idle_timeout,
    )
    serve_here(options, say=click.echo)
    return 0


@local.command(epilog="Example: estafeta local status")
@json_output
@verbose
@click.pass_obj
def status(manners: Manners) -> int:
    """Tell whether the service runs, and how busy it is."""
    from estafeta.client.backend import home
    from estafeta.local import find

    console, running = manners.console(), find(home())
    facts = {"home": str(home()), "running": running is not None, **(_facts(running) if running else {})}
    if manners.json:
        console.json(facts)
    elif running is None:
        console.results([("local", f"no service runs in {home()}")])
    else:
        console.results(
            [
                ("local", f"{facts['url']}   process {facts['pid']}, in {home()}"),
                ("busy", f"{facts['invocations']} invocations at work, {facts['events']} events waiting"),
            ]
        )
    return 0


@local.command(epilog="Example: estafeta local stop")
@json_output
@verbose
@click.pass_obj
def stop(manners: Manners) -> int:
    """End the service with everything that runs in it; runs can be resumed later."""
    from estafeta.client.backend import home
    from estafeta.local import stop as stop_service

    console, stopped = manners.console(), stop_service(home())
    if manners.json:
        console.json({"home": str(home()), "stopped": stopped})
    else:
        console.results([("local", "stopped" if stopped else f"no service runs in {home()}")])
    return 0


def _facts(running: Endpoint) -> dict[str, Any]:
    from estafeta.local.endpoint import ask

    answer = ask(running, "GET")
    return {"url": running.url, "pid": running.pid, "invocations": answer["running"], "events": answer["waiting"]}
