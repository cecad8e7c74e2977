"""The place that a user has named, and the commands that lead there.

An error does not know where its hint will be read: `control` does not know how the client has found it. So a hint names
its command as data (`errors.Command`), and the command line adds the options of the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from estafeta.errors import Command, parts_of

if TYPE_CHECKING:
    from estafeta.client.backend import Backend
    from estafeta.client.run import Run
    from estafeta.job.job import On

AWS_WORDS = 3
"""Words of a command of `aws` before its options: program, service, operation."""


@dataclass(frozen=True)
class Place:
    """A place of runs and data sets; None: the usual stack, or the Region or profile that every AWS tool takes."""

    name: On = "local"
    stack: str | None = None
    region: str | None = None
    profile: str | None = None

    @property
    def choices(self) -> dict[str, Any]:
        """Stack, region and profile, as far as the user has named them; `connect.connect` takes them."""
        return {name: value for name in ("stack", "region", "profile") if (value := getattr(self, name)) is not None}

    @property
    def options(self) -> dict[str, str]:
        """Options that lead a command there, with their values."""
        return {"--on": self.name, **{f"--{name}": value for name, value in self.choices.items()}}

    def completed(self, text: str, commands: click.Group) -> str:
        """A text as it is printed: each command that `errors.Command` wrote into it gets the options of the place.

        A command gets only those that it takes (the group `commands` tells) and does not have.
        """
        parts = parts_of(text)
        return "".join(part if isinstance(part, str) else self._complete(part, commands) for part in parts)

    def _complete(self, command: Command, commands: click.Group) -> str:
        program, *words = command.words
        first, known = (AWS_WORDS, {"--region", "--profile"}) if program == "aws" else _known(words, commands)
        if self.name != "aws" or ("--on", "local") in zip(command.words, command.words[1:], strict=False):
            return command.line
        wanted = known - set(words)
        added = [word for option in self.options.items() if option[0] in wanted for word in option]
        return Command(*command.words[:first], *added, *command.words[first:]).line


def _known(words: Sequence[str], commands: click.Group) -> tuple[int, set[str]]:
    """Number of words that name a command of `estafeta`, with the program, and the options that it takes."""
    command: click.Command = commands
    first = 1
    for word in words:
        if not isinstance(command, click.Group) or word not in command.commands:
            break
        command = command.commands[word]
        first += 1
    return first, {name for parameter in command.params for name in parameter.opts}


def attach(on: Place) -> Backend:
    """The place of a run, as the client sees it."""
    from estafeta.client.connect import attach

    return attach(on.name, **on.choices)


def find_run(text: str, on: Place) -> Run:
    """The run that is meant: by its name, the beginning of its name, or `last`; raises as `Run` does."""
    from estafeta.client.run import Run

    return Run(text, on=on.name, **on.choices)
