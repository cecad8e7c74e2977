"""The documents say what is true of the code: links lead somewhere, names and commands exist, lists are complete."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import statistics
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import estafeta
from estafeta.cli.main import estafeta as command_line
from estafeta.client.source import import_job
from estafeta.cost import cost
from estafeta.data import manifest
from estafeta.functions import watchdog
from estafeta.job import stopping
from estafeta.protocol import spec, verbs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/estafeta"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

MOST_LINES = 450
MOST_LINES_OF_HALF = 200

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def blocks(text: str, language: str = "") -> list[str]:
    return [content for name, content in BLOCK.findall(text) if name == language]


def anchors(document: Path) -> set[str]:
    """What `#…` may name in a document, as GitHub makes it from the headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(document))}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(prose(document)):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if link.startswith("https://"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs/decisions"
    listed = LINK.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("0*.md"))


def test_architecture_has_a_line_for_every_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for package in sorted(PACKAGE.glob("*/__init__.py")):
        sentence = " ".join(package.read_text(encoding="utf-8").split('"""')[1].split("\n\n")[0].split())
        assert f"| `{package.parent.name}` | {sentence.rstrip('.')} |" in text


def test_modules_stay_small() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert statistics.median(lines.values()) <= MOST_LINES_OF_HALF


@pytest.mark.parametrize("name", estafeta.__all__)
def test_public_names_are_documented(name: str) -> None:
    value = getattr(estafeta, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "a dataclass without a docstring gets its signature for one"
    assert f"`{name}`" in README


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_jobs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, path.stem, sys.modules[__name__])  # so that it is taken out again
    job, place, sources = import_job(str(path))
    assert isinstance(job, estafeta.Job)
    assert place == f"{path.stem}:job"
    assert path.name in sources
    assert f"(examples/{path.name})" in README


def test_the_readme_shows_the_example_as_it_is() -> None:
    example = (ROOT / "examples/digits.py").read_text(encoding="utf-8")
    first = blocks(README, "python")[0]
    assert example.endswith(f'"""\n\n{first}')


def command_lines() -> Iterator[str]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for line in [line for block in blocks(text) for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text):
            if line.startswith(("estafeta ", "make ")):
                yield re.split(r"  +#", line)[0].strip()


@pytest.mark.parametrize("line", sorted(line for line in set(command_lines()) if line.startswith("estafeta ")))
def test_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words are parsed as the command line would, without carrying anything out."""
    monkeypatch.chdir(ROOT)
    command: click.Command = command_line
    line = line.replace("JOB.py", "examples/digits.py").replace("RUN…", "RUN")
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    if words:
        command.make_context(command.name, words)


@pytest.mark.parametrize("line", sorted(line for line in set(command_lines()) if line.startswith("make ")))
def test_targets_of_make_exist(line: str) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line.split()[1] in targets


def test_the_protocol_has_its_parts_in_order() -> None:
    parts = re.findall(r"^## (\w+)", PROTOCOL, re.MULTILINE)
    assert parts == ["Terms", "Invariants", "Directory", "File", "Writer", "Reader", "Assumptions", "Appendix"]


def test_the_protocol_knows_the_formats() -> None:
    formats = re.compile(r"estafeta-[a-z]+/\d+")
    written = {found for path in PACKAGE.rglob("*.py") for found in formats.findall(path.read_text(encoding="utf-8"))}
    assert set(formats.findall(PROTOCOL)) == written


@pytest.mark.parametrize(
    "document",
    [
        spec.RunSpec,
        spec.FunctionSettings,
        spec.Plan,
        spec.Slot,
        spec.Outcome,
        spec.Failure,
        spec.WorkerEvent,
        manifest.Manifest,
        manifest.Kind,
        manifest.Column,
        manifest.Extent,
        verbs.ResumeVerb,
        spec.Limits,
        cost.Basis,
        watchdog.Note,
        spec.MergeEvent,
        verbs.StartVerb,
        verbs.UploadedSource,
        verbs.StopVerb,
        verbs.TendVerb,
        verbs.StatusVerb,
        verbs.CleanVerb,
        verbs.InspectVerb,
        verbs.ForkVerb,
        spec.Origin,
        verbs.FetchVerb,
        verbs.ReceiveVerb,
        verbs.DescribeVerb,
        verbs.VerifyVerb,
        verbs.RemoveVerb,
        verbs.ProbeVerb,
        stopping.EpochRecord,
        stopping.EarlyStopping,
    ],
)
def test_the_protocol_names_every_field(document: type) -> None:
    names = (
        [field.name for field in dataclasses.fields(document)]
        if dataclasses.is_dataclass(document)
        else list(inspect.get_annotations(document))
    )
    assert [name for name in names if f"`{name}`" not in PROTOCOL] == []
    assert names


def test_the_import_rule_is_the_one_that_is_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (rule,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    shown = "\n".join(rule["layers"]) + "\n"
    assert shown in blocks((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
