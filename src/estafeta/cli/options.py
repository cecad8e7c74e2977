"""What several commands take: where runs are, which run, and how to speak.

Knows click alone, so that help costs no imports. Invariant: an option of this file means the same in every command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from estafeta.cli.console import Console


@dataclass
class Manners:
    """How a command speaks; filled in while its options are read.

    Attributes:
        json: One JSON object on standard output, and nothing else there.
        quiet: Nothing on standard error but errors.
        verbose: Errors with their tracebacks.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def console(self) -> Console:
        """The terminal to speak to."""
        from estafeta.cli.console import Console

        return Console(machine=self.json, quiet=self.quiet)


def _manner(*names: str, field: str, text: str) -> Callable[[Any], Any]:
    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            setattr(context.ensure_object(Manners), field, True)

    return click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=remember, help=text)


json_output = _manner("--json", field="json", text="Print one JSON object and nothing else on standard output.")
quiet = _manner("-q", "--quiet", field="quiet", text="No talk: only the result, and errors.")
verbose = _manner("-v", "--verbose", field="verbose", text="Show the traceback of an error.")

run_name = click.argument("name", metavar="RUN")
on_service = click.option(
    "--on", type=click.Choice(["local", "aws"]), default="local", show_default=True, help="Where the run is."
)
detach = click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
output_dir = click.option(
    "--output-dir", type=click.Path(file_okay=False, writable=True), default="runs", show_default=True,
    help="Where the weights go: DIR/RUN/final and DIR/RUN/best.", metavar="DIR",
)  # fmt: skip


NO_LIMIT = "none"
"""Lifts a limit."""


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
    "max_cost": ("max_cost_usd", "USD", float, "Stop when it has cost so many dollars; locally: would have on AWS."),
    "max_hours": ("max_hours", "H", float, "Stop after so many hours since the start, or since it was resumed."),
    "max_rounds": ("max_rounds", "N", int, "Stop after so many train rounds."),
}
"""By parameter: the limit's name in the spec, its unit, its type, what it does."""


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that limit a run."""
    for parameter, (_, unit, kind, text) in reversed(LIMITS.items()):
        flag = "--" + parameter.replace("_", "-")
        command = click.option(flag, parameter, callback=_limit(kind), metavar=unit, help=text)(command)
    return command


def limits_of(**options: Any) -> dict[str, float | None]:
    """The limits that were given, by their names in the spec; None lifts one."""
    return {
        LIMITS[parameter][0]: None if value == NO_LIMIT else value
        for parameter, value in options.items()
        if value is not None
    }
