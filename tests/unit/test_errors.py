"""Each error names a remedy, its class lives in the tree that `errors.py` draws, and its commands survive the wire."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from estafeta import errors
from estafeta.client.backend import unwrap
from estafeta.errors import Command, EstafetaError, UsageError, parts_of

PACKAGE = Path(errors.__file__).parent
KINDS = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, EstafetaError)]

INTERNAL = {
    "store/": "callers catch it, and say what it means for their file",
    "residents/": "ranks catch it: they read the message again, or compute it",
    "protocol/message.py": "readers catch it: a rank publishes the message again, and `inspect` tells the damage",
    "protocol/streamed.py": "readers catch it: a rank publishes the message again",
    "aws/library.py": "the installer catches it, and fetches the part again",
    "data/blocks.py": "the caller in the same module says which block it is",
    "functions/verbs/fork.py: Gone": "the caller in the same module says which versions there are",
}
"""Places whose errors no user sees as they are, by the beginning of `path: class`, and why."""


def without_hint() -> Iterator[str]:
    """Places that make an error without a hint: `path: class`."""
    names = {kind.__name__ for kind in KINDS}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                given = {keyword.arg for keyword in node.keywords}
                if "hint" not in given and None not in given:
                    yield f"{path.relative_to(PACKAGE)}: {node.func.id}"


def test_each_error_that_a_user_can_cause_has_a_hint() -> None:
    assert [place for place in without_hint() if not place.startswith(tuple(INTERNAL))] == []


def test_each_exception_is_still_needed() -> None:
    places = list(without_hint())
    assert [exception for exception in INTERNAL if not any(place.startswith(exception) for place in places)] == []


def test_the_tree_draws_every_error_and_no_other_module_has_one() -> None:
    tree = str(errors.__doc__)
    assert [kind.__name__ for kind in KINDS if kind.__name__ not in tree] == []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            bases = (
                {base.id for base in node.bases if isinstance(base, ast.Name)}
                if isinstance(node, ast.ClassDef)
                else set()
            )
            assert path.name == "errors.py" or bases.isdisjoint(kind.__name__ for kind in KINDS), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_class_survives_the_wire_with_its_command(kind: type[EstafetaError]) -> None:
    hint = f"see {Command('estafeta', 'logs', 'r')}, or wait"
    record = {"kind": kind.__name__, "message": "It broke", "hint": hint, "exit_code": 7}
    with pytest.raises(kind, match="It broke") as caught:
        unwrap(json.loads(json.dumps({"error": record})))
    assert (type(caught.value), caught.value.exit_code) == (kind, 7)
    assert parts_of(caught.value.hint) == ["see ", Command("estafeta", "logs", "r"), ", or wait"]


@pytest.mark.parametrize("kind", ["Unheard", "annotations", "Command"])
def test_an_error_of_another_version_becomes_the_base(kind: str) -> None:
    with pytest.raises(EstafetaError, match="It broke") as caught:
        unwrap({"error": {"kind": kind, "message": "It broke", "hint": "", "exit_code": 2}})
    assert (type(caught.value), caught.value.exit_code) == (EstafetaError, 2)


def test_a_command_is_found_again_whatever_its_words_are() -> None:
    command = Command("estafeta", "export", "r", "-d", "my models")
    assert parts_of(f"{command}") == ["", command, ""]
    assert str(UsageError("It broke", hint=f"{command}").__notes__[0]) == "try: `estafeta export r -d 'my models'`"


def test_no_hint_has_a_command_of_ours_as_prose() -> None:
    """A command in plain text could not be completed with the place that the user has named."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                texts = [
                    n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                found += [f"{path.name}: {text}" for text in texts if "estafeta " in text and "`" not in text]
    assert found == []
