"""Commands in hints, completed for the place that they were asked from."""

from __future__ import annotations

import shlex

import click
import pytest

from estafeta.cli.main import estafeta
from estafeta.cli.options import Place
from estafeta.cli.words.place import completed

THERE = Place("aws", "mine", profile="work")
WORDS = "--on aws --stack mine --profile work"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("estafeta runs lists them", f"estafeta runs {WORDS} lists them"),
        ("`estafeta data ls` lists them", f"`estafeta data ls {WORDS}` lists them"),
        (
            "resume it: estafeta resume r   estafeta clean r",
            f"resume it: estafeta resume {WORDS} r   estafeta clean {WORDS} r",
        ),
        (
            "see: estafeta logs r; then: estafeta resume r",
            f"see: estafeta logs {WORDS} r; then: estafeta resume {WORDS} r",
        ),
        (
            "estafeta data rm x --on local, or: estafeta data rm x --on aws",
            "estafeta data rm x --on local, or: estafeta data rm --stack mine --profile work x --on aws",
        ),
        (
            "estafeta deploy --stack mine --region eu-west-1",
            "estafeta deploy --profile work --stack mine --region eu-west-1",
        ),
        ("estafeta deploy completes it", "estafeta deploy --stack mine --profile work completes it"),
        (
            "aws logs delete-log-group --log-group-name /g",
            "aws logs delete-log-group --profile work --log-group-name /g",
        ),
        ("estafeta local stop", "estafeta local stop"),
        ("an estafeta is a relay; estafeta knows that", "an estafeta is a relay; estafeta knows that"),
        ("estafeta data is a group", "estafeta data is a group"),
    ],
)
def test_a_command_gets_what_it_lacks(said: str, expected: str) -> None:
    assert completed(said, THERE, estafeta) == expected
    assert completed(expected, THERE, estafeta) == expected, "once is enough"


@pytest.mark.parametrize("place", [Place(), Place("inline")])
def test_on_this_machine_nothing_is_added(place: Place) -> None:
    assert completed("estafeta resume r", place, estafeta) == "estafeta resume r"


def test_completed_commands_are_understood() -> None:
    """The options stand before the arguments, where every command takes them."""
    for said in ("estafeta train JOB.py", "estafeta export r --which best", "estafeta data verify census"):
        _, *arguments = shlex.split(completed(said, THERE, estafeta))
        command: click.Command = estafeta
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        parser = command.make_parser(click.Context(command))
        values, _, _ = parser.parse_args(arguments)
        assert (values["on"], values["stack"], values["profile"]) == ("aws", "mine", "work")


def test_a_name_with_a_space_stays_one_word() -> None:
    said = completed("estafeta runs", Place("aws", profile="my work"), estafeta)
    assert shlex.split(said) == ["estafeta", "runs", "--on", "aws", "--profile", "my work"]
