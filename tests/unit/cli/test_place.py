"""Commands in hints, completed for the place that they were asked from."""

from __future__ import annotations

import shlex

import click
import pytest

from estafeta.cli.main import estafeta
from estafeta.cli.place import Place
from estafeta.errors import Command

THERE = Place("aws", "mine", profile="work")
WORDS = "--on aws --stack mine --profile work"


def command(line: str) -> Command:
    return Command(*line.split())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"{command('estafeta runs')} lists them", f"estafeta runs {WORDS} lists them"),
        ("`estafeta data ls` lists them", f"estafeta data ls {WORDS} lists them"),
        (
            f"resume it: {command('estafeta resume r')}   {command('estafeta clean r')}",
            f"resume it: estafeta resume {WORDS} r   estafeta clean {WORDS} r",
        ),
        (
            f"see: {command('estafeta logs r')}; then: {command('estafeta resume r')}",
            f"see: estafeta logs {WORDS} r; then: estafeta resume {WORDS} r",
        ),
        (
            f"{command('estafeta data rm x --on local')}, or: {command('estafeta data rm x --on aws')}",
            "estafeta data rm x --on local, or: estafeta data rm --stack mine --profile work x --on aws",
        ),
        (
            f"{command('estafeta deploy --stack mine --region eu-west-1')}",
            "estafeta deploy --profile work --stack mine --region eu-west-1",
        ),
        (f"{command('estafeta deploy')} completes it", "estafeta deploy --stack mine --profile work completes it"),
        (
            f"{command('aws logs delete-log-group --log-group-name /g')}",
            "aws logs delete-log-group --profile work --log-group-name /g",
        ),
        (f"{command('estafeta local stop')}", "estafeta local stop"),
        ("an estafeta is a relay; estafeta knows that", "an estafeta is a relay; estafeta knows that"),
        ("estafeta data is a group", "estafeta data is a group"),
        ("a version is a number, `best` or `final`", "a version is a number, `best` or `final`"),
        ("a mark ` alone", "a mark ` alone"),
    ],
)
def test_a_command_gets_what_it_lacks(said: str, expected: str) -> None:
    assert THERE.completed(said, estafeta) == expected
    assert THERE.completed(expected, estafeta) == expected, "once is enough"


@pytest.mark.parametrize("place", [Place(), Place("inline")])
def test_on_this_machine_nothing_is_added(place: Place) -> None:
    assert place.completed(f"{command('estafeta resume r')}", estafeta) == "estafeta resume r"


def test_the_options_stand_before_the_arguments_where_every_command_takes_them() -> None:
    for line in ("estafeta train JOB.py", "estafeta export r --which best", "estafeta data verify census"):
        _, *arguments = shlex.split(THERE.completed(f"{command(line)}", estafeta))
        found: click.Command = estafeta
        while isinstance(found, click.Group):
            found = found.commands[arguments.pop(0)]
        parser = found.make_parser(click.Context(found))
        values, _, _ = parser.parse_args(arguments)
        assert (values["on"], values["stack"], values["profile"]) == ("aws", "mine", "work")


def test_a_name_with_a_space_stays_one_word() -> None:
    said = Place("aws", profile="my work").completed(f"{command('estafeta runs')}", estafeta)
    assert shlex.split(said) == ["estafeta", "runs", "--on", "aws", "--profile", "my work"]
