"""Options that several commands take: the place of runs, the name of a run, the manner of speaking.

This module imports click alone, so that help comes at once. Invariant: an option of this file means the same in every
command.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import click

from estafeta.cli.place import Place, find_run
from estafeta.errors import UsageError

if TYPE_CHECKING:
    from estafeta.cli.console import Console
    from estafeta.job.job import On


@dataclass
class Manners:
    """Manner in which a command speaks; click fills it in while it reads the options.

    Attributes:
        place: Place that the user has named.
        commands: Commands of `estafeta`, which a text may name.
        began: Start of the command, by `time.monotonic`.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    place: Place = field(default_factory=Place)
    commands: click.Group = field(default_factory=click.Group)
    began: float = field(default_factory=time.monotonic)

    def console(self) -> Console:
        """The terminal to speak to."""
        from estafeta.cli.console import Console

        return Console(machine=self.json, quiet=self.quiet, complete=self.complete)

    def complete(self, text: str) -> str:
        """A text for the user, in which each command leads to the place that the user has named."""
        return self.place.completed(text, self.commands)


def _manner(*names: str, field: str, text: str) -> Callable[[Any], Any]:
    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            setattr(context.ensure_object(Manners), field, True)

    return click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=remember, help=text)


_MANNERS = {
    "json": _manner("--json", field="json", text="Print one JSON object and nothing else on standard output."),
    "quiet": _manner("-q", "--quiet", field="quiet", text="Print only the result and errors."),
    "verbose": _manner("-v", "--verbose", field="verbose", text="Show the traceback of an error."),
}


def speaks(*manners: Literal["json", "quiet"]) -> Callable[[Any], Any]:
    """Give a command its `Manners`, and the options that choose among these; every command can be verbose."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        decorated: Callable[..., Any] = click.pass_obj(command)
        for manner in ("verbose", *reversed(manners)):
            decorated = _MANNERS[manner](decorated)
        return decorated

    return decorate


_ON_AWS = (
    click.option("--stack", metavar="NAME", help="On AWS: name of the stack; by default estafeta."),
    click.option(
        "--region", metavar="REGION", help="On AWS: the Region; by default the one that the aws command would use."
    ),
    click.option(
        "--profile", metavar="PROFILE", help="On AWS: profile of the AWS configuration files; by default likewise."
    ),
)


def _place(names: Sequence[str] = (), text: str = "") -> Callable[[Any], Any]:
    """Options that name a place on AWS, and `--on` if there is a choice; the command gets them as `on: Place`."""
    on = click.option("--on", type=click.Choice(names), default="local", help=text)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_place(
            *arguments: Any, stack: str | None, region: str | None, profile: str | None, on: On = "aws", **others: Any
        ) -> Any:
            place = Place(on, stack, region, profile)
            if place.choices and on != "aws":
                raise UsageError(f"--{next(iter(place.choices))} says where on AWS", hint="add --on aws")
            click.get_current_context().ensure_object(Manners).place = place
            return command(*arguments, on=place, **others)

        decorated: Callable[..., Any] = with_place
        for option in reversed([on, *_ON_AWS] if names else _ON_AWS):
            decorated = option(decorated)
        return decorated

    return decorate


on_aws = _place()
on_service = _place(["local", "aws"], "Where the run is.")
on_any = _place(["local", "inline", "aws"], "On this machine under Lambda's rules, in this process, or on AWS Lambda.")
on_doctor = _place(["local", "aws"], "What to look at: this machine, or the stack on AWS.")
on_store = _place(["local", "aws"], "Which store: that of this machine, or that of the stack on AWS.")


def of_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the name and the place of a run; the command gets `run: Run`."""

    @wraps(command)
    def with_run(*arguments: Any, name: str, on: Place, **others: Any) -> Any:
        return command(*arguments, run=find_run(name, on), **others)

    named: Callable[..., Any] = click.argument("name", metavar="RUN")(on_service(with_run))
    return named


yes = click.option("--yes", is_flag=True, help="Do not ask.")


def ask(question: str) -> None:
    """Have the user confirm something, or end the command."""
    if not sys.stdin.isatty():
        raise UsageError("There is no terminal on which to confirm this", hint="add --yes")
    click.confirm(question, abort=True, err=True)


def choice(name: str, *words: str, **others: Any) -> Callable[[Any], Any]:
    """An option that takes one of some words; without another default it is the first."""
    return click.option(name, type=click.Choice(words), **{"default": words[0], **others})


FOLDER = click.Path(file_okay=False)
EXISTING_FILE = click.Path(exists=True, dir_okay=False)
detach = click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
output_dir = click.option(
    "--output-dir",
    type=click.Path(file_okay=False, writable=True),
    default="runs",
    help="Where the weights go: DIR/RUN/final and DIR/RUN/best.",
    metavar="DIR",
)


NO_LIMIT = "none"
"""Value that lifts a limit."""


def _limit(kind: type[int] | type[float]) -> Callable[..., float | str | None]:
    def parse(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | str | None:
        if text is None or text == NO_LIMIT:
            return text
        try:
            number = kind(text.removeprefix("$"))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is neither a number nor {NO_LIMIT!r}") from error
        if not 0 < number < float("inf"):
            raise click.BadParameter(f"{text} is not above zero, or has no end")
        return number

    return parse


LIMITS = {
    "max_cost": ("max_cost_usd", "USD", float, "Stop when it has cost this much; locally: when it would have on AWS."),
    "max_hours": ("max_hours", "H", float, "Stop after this many hours since it was started, or last resumed."),
    "max_rounds": ("max_rounds", "N", int, "Stop after this many train rounds."),
}
"""Name in the spec, unit, type and help of each limit, by parameter."""


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that limit a run."""
    for parameter, (_, unit, kind, text) in reversed(LIMITS.items()):
        flag = "--" + parameter.replace("_", "-")
        command = click.option(flag, parameter, callback=_limit(kind), metavar=unit, help=text)(command)
    return command


def limits_of(**options: Any) -> dict[str, float | None]:
    """Limits that were given, by their names in the spec; None lifts one."""
    return {
        LIMITS[parameter][0]: None if value == NO_LIMIT else value
        for parameter, value in options.items()
        if value is not None
    }
