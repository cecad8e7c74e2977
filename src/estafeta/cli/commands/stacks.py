"""`estafeta deploy` and `estafeta destroy`: a stack on AWS."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import Manners, ask, on_aws, speaks, yes
from estafeta.cli.place import Place
from estafeta.errors import Command, UsageError

if TYPE_CHECKING:
    from estafeta.cli.console import Console
    from estafeta.deploy.change_sets import Event


@click.command(epilog="Example: estafeta deploy --region eu-west-1 --requirements requirements.txt")
@on_aws
@click.option(
    "--architecture", type=click.Choice(["arm64", "x86_64"]), help="Processor of the functions.  [default: arm64]"
)
@click.option(
    "--python", type=click.Choice(["3.12", "3.13", "3.14"]), help="Python of the functions.  [default: yours, or 3.13]"
)
@click.option(
    "--requirements",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What jobs need beside PyTorch; PyTorch itself, if it is to be another version than yours.",
)
@click.option(
    "--torch-backend",
    metavar="NAME",
    help="Index that PyTorch is taken from, as uv has it; none: only what uv is configured to use.  [default: cpu]",
)
@click.option("--image", metavar="URI", help="A container image in ECR instead of packages; see deploy/Dockerfile.")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the template, such as WorkerMemory=3008; may be repeated.",
)
@yes
@speaks("json", "quiet")
def deploy(
    manners: Manners, /, on: Place, requirements: Path | None, parameters: tuple[str, ...], yes: bool, **options: Any
) -> None:
    """Make a stack on AWS, or change one to what is asked for.

    What is not asked for stays as it is deployed. No Docker is needed: the functions' code goes up as a zip file,
    PyTorch as a folder that `control` unpacks on the file system.
    """
    from estafeta.aws.account import STACK, Account
    from estafeta.cli.words import stack as words
    from estafeta.deploy.deploy import Deployer
    from estafeta.deploy.plan import Wishes

    console, account, stack = manners.console(), Account(on.region, on.profile), on.stack or STACK
    wishes = Wishes(
        stack=stack,
        requirements=None if requirements is None else _lines(requirements),
        parameters=dict(_pair(text) for text in parameters),
        **options,
    )
    deployer = Deployer(account, wishes, _Report(console))
    try:
        with tempfile.TemporaryDirectory(prefix="estafeta-") as folder:
            plan = deployer.prepare(Path(folder))
            try:
                console.talk(words.plan(plan, account.region))
                if not yes:
                    console.still()
                    ask(f"Deploy {stack} to {account.region}?")
            except BaseException:
                deployer.discard(plan)
                raise
            deployed = deployer.carry_out(plan)
    finally:
        console.still()
    console.answer(words.facts(deployed, plan, account.region), words.deployed(deployed, account.region))
    if not manners.json:
        console.talk([("next", f"{Command('estafeta', 'train', 'JOB.py', '--on', 'aws')}")])


@click.command(epilog="Example: estafeta destroy --region eu-west-1")
@on_aws
@click.option("--delete-data", is_flag=True, help="Delete the file system too, with all runs and data sets on it.")
@yes
@speaks("json", "quiet")
def destroy(manners: Manners, on: Place, delete_data: bool, yes: bool) -> None:
    """Remove a stack from AWS, and list what is left.

    The file system stays unless told otherwise; a stack of the same name finds it again.
    """
    from estafeta.aws.account import STACK, Account
    from estafeta.cli.words import stack as words
    from estafeta.deploy.destroy import Destroyer

    console, account, stack = manners.console(), Account(on.region, on.profile), on.stack or STACK
    destroyer = Destroyer(account, stack, _Report(console))
    standing = destroyer.look()
    console.talk(words.standing(standing, account.region, delete_data=delete_data))
    if not yes and not (standing.is_gone and not delete_data):
        console.still()
        ask(f"Remove {stack} from {account.region}?")
    try:
        destroyer.carry_out(standing, delete_data=delete_data)
    finally:
        console.still()
    left, kept = destroyer.leftovers(), destroyer.kept()
    leftovers = [{"kind": x.kind, "name": x.name, "command": console.complete(str(x.command))} for x in left]
    facts = {"stack": stack, "region": account.region, "kept": kept, "leftovers": leftovers}
    console.answer(facts, words.destroyed(stack, kept, left))


COMMANDS = (deploy, destroy)


class _Report:
    """Tells the terminal how a deployment goes on."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def step(self, what: str) -> None:
        """See `Reporter.step`."""
        self._console.talk([("step", what)])

    def portion(self, what: str, done: int, total: int, unit: str) -> None:
        """See `Reporter.portion`."""
        self._console.portion(what, done, total, unit)

    def event(self, event: Event) -> None:
        """See `Reporter.event`."""
        reason = f": {event.reason}" if event.reason and event.state.endswith("FAILED") else ""
        self._console.talk([("", f"{event.state:<20} {event.resource} ({event.kind}){reason}")])


def _lines(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is no UTF-8 text: {error}", hint="--requirements takes a requirements file"
        ) from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--parameter {text!r} is not NAME=VALUE", hint="such as -p WorkerMemory=3008")
    return name, value
