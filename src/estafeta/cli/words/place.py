"""Commands in what is said to the user, completed with the place that he has named: each can be copied as it is.

Whoever writes a hint need not know where it will be read: `control` does not know how the client found it. Options
stand behind the command's name, since only there it is certain that no prose has begun.
"""

from __future__ import annotations

import re
import shlex

import click

from estafeta.cli.options import Place

_COMMAND = re.compile(r"\bestafeta(?P<names>(?: [a-z]+)+)(?P<rest>(?:(?! {3})[^,;:`)\n])*)")
_AWS_COMMAND = re.compile(r"\baws [a-z0-9-]+ [a-z0-9-]+(?P<rest>[^,;`)\n]*)")


def completed(text: str, place: Place, commands: click.Group) -> str:
    """The text, with the options of the place in each command that takes them and does not have them.

    Args:
        text: Prose with commands in it.
        place: What the user has named; a command that says `--on local` is meant for another.
        commands: Those of `estafeta`.
    """
    if place.name != "aws":
        return text

    def of_estafeta(found: re.Match[str]) -> str:
        path, known = _known(found["names"].split(), commands)
        if "--on local" in found["rest"] or not known:
            return found[0]
        end = len("estafeta " + " ".join(path))
        return found[0][:end] + _missing(place, found[0], known) + found[0][end:]

    def of_aws(found: re.Match[str]) -> str:
        end = found.start("rest") - found.start()
        return found[0][:end] + _missing(place, found[0], {"--region", "--profile"}) + found[0][end:]

    return _AWS_COMMAND.sub(of_aws, _COMMAND.sub(of_estafeta, text))


def _known(words: list[str], commands: click.Group) -> tuple[list[str], set[str]]:
    """Those of the words that name a command, and its options; none if they name no command."""
    command: click.Command = commands
    path = []
    for word in words:
        if not isinstance(command, click.Group) or word not in command.commands:
            break
        command = command.commands[word]
        path.append(word)
    return path, {name for parameter in command.params for name in parameter.opts}


def _missing(place: Place, command: str, known: set[str]) -> str:
    wanted = known - set(command.split())
    return "".join(f" {option} {shlex.quote(value)}" for option, value in place.options.items() if option in wanted)
