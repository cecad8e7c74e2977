"""The documents say what is true of the code: links lead somewhere, names and commands exist, lists are complete."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
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
from estafeta import errors
from estafeta.cli.main import estafeta as command_line
from estafeta.client.options import known_names
from estafeta.client.source import import_job
from estafeta.cost import cost
from estafeta.data import manifest
from estafeta.functions import watchdog
from estafeta.job import stopping
from estafeta.job.optim import OPTIMIZERS
from estafeta.job.schedules import SCHEDULES
from estafeta.protocol import spec, verbs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/estafeta"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROTOCOL = PAGES["protocol"]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

MOST_LINES = 450
MOST_LINES_OF_HALF = 200
MOST_LINES_OF_A_PAGE = {"README": 150, "architecture": 150}
MOST_LINES_OF_A_USERS_PAGE = 250

HEADLESS = re.compile(r"(test_)?(who|what|of|where|which|under|between)(_|\W)", re.IGNORECASE)
"""Beginnings of sentences and names without an actor; the first word says nothing of who does what."""

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


def test_index_lists_every_page() -> None:
    linked = set(LINK.findall(PAGES["index"]))
    assert {f"{page}.md" for page in PAGES if page != "index"} | {"decisions/README.md"} <= linked


def test_pages_stay_short() -> None:
    for_users = PAGES["index"].partition("## For users")[2].partition("\n## ")[0]
    most = {link.removesuffix(".md"): MOST_LINES_OF_A_USERS_PAGE for link in LINK.findall(for_users)}
    lines = {name: len(text.splitlines()) for name, text in {**PAGES, "README": README}.items()}
    assert len(most) >= 12
    assert {name: lines[name] for name, bound in {**most, **MOST_LINES_OF_A_PAGE}.items() if lines[name] > bound} == {}


def test_architecture_has_a_line_for_every_package() -> None:
    text = PAGES["architecture"]
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
    assert f"`{name}`" in PAGES["python"].partition("## Public names")[2]


def test_python_page_names_arguments_and_members() -> None:
    arguments = set(inspect.signature(estafeta.train).parameters) - {"job"}
    members = {name for name in vars(estafeta.Run) if not name.startswith("_")} - {"raise_failure"}
    page = PAGES["python"]
    assert [name for name in sorted(arguments | members) if not re.search(rf"`{name}[`(]", page)] == []


@pytest.mark.parametrize("field", dataclasses.fields(estafeta.Job), ids=lambda field: field.name)
def test_jobs_page_has_every_argument_with_its_default(field: dataclasses.Field[object]) -> None:
    row = re.search(rf"^\| `{field.name}` \|(.*?)\|", PAGES["jobs"], re.MULTILINE)
    assert row
    if field.default is not dataclasses.MISSING:
        shown = repr(field.default)
    else:
        shown = "" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
    assert row[1].strip(" `") == shown


def test_jobs_page_has_every_name_that_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "digits", sys.modules[__name__])  # so that it is taken out again
    table = PAGES["jobs"].partition("## Change a job for one run")[2].partition("\n## ")[0]
    job, _, _ = import_job(str(ROOT / "examples/digits.py"))
    names = known_names(job)
    assert names
    families = {f"`{name.partition('.')[0]}." for name in names if "." in name}
    assert [name for name in names if "." not in name and f"`{name}`" not in table] == []
    assert [family for family in families if family not in table] == []


@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), *SCHEDULES.values(), estafeta.EarlyStopping])
def test_jobs_page_names_every_setting(kind: type) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    assert names
    assert [name for name in names if not re.search(rf"`{name}[`=]", PAGES["jobs"])] == []
    assert f"`{kind.__name__}`" in PAGES["jobs"] or f"`estafeta.{kind.__name__}`" in PAGES["jobs"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_jobs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, path.stem, sys.modules[__name__])  # so that it is taken out again
    job, place, sources = import_job(str(path))
    assert isinstance(job, estafeta.Job)
    assert place == f"{path.stem}:job"
    assert path.name in sources
    assert any(f"examples/{path.name})" in text for text in PAGES.values())


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
    line = line.replace("JOB.py", "examples/digits.py").replace("RUN…", "RUN").replace("mine.py", "examples/digits.py")
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    if words:
        command.make_context(command.name, words)


def commands(group: click.Group = command_line, path: str = "estafeta") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_page_has_every_command_with_its_options(path: str, command: click.Command) -> None:
    """In the section of the command, in its row, or in its table; common options have a section of their own."""
    page = PAGES["commands"]
    places = [
        re.search(rf"^### `{path}`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL),
        re.search(rf"^\| `{path}` \|(.*)$", page, re.MULTILINE),
    ]
    own = "\n".join(place[1] for place in places if place)
    table = re.search(rf"^\| option of `{path}` (.*?)(?=\n\n|\Z)", page, re.MULTILINE | re.DOTALL)
    text = own + (table[1] if table else "") + page.partition("## Common options")[2].partition("\n## ")[0]
    options = [o for p in command.params if isinstance(p, click.Option) and not p.hidden for o in p.opts]
    assert own, f"{path} is missing"
    assert [option for option in options if not re.search(rf"`{option}[` ]", text)] == []


def test_aws_page_has_every_parameter_of_the_template() -> None:
    template = (PACKAGE / "aws/stack.yaml").read_text(encoding="utf-8")
    parameters = re.findall(r"^  (\w+):$", template.partition("\nParameters:\n")[2].partition("\nConditions:")[0], re.M)
    assert len(parameters) > 15
    assert [name for name in parameters if f"`{name}`" not in PAGES["aws"]] == []


def test_every_error_is_drawn_and_explained() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    classes = [kind.__name__ for kind in kinds if issubclass(kind, errors.EstafetaError)]
    assert errors.__doc__
    assert [name for name in classes if not re.search(rf"\b{name}\b", errors.__doc__)] == []
    assert [name for name in classes if f"`{name}`" not in PAGES["troubleshooting"]] == []


def test_source_names_documents_that_exist() -> None:
    named = re.compile(r"docs/[\w/-]+\.md")
    found = {name for path in PACKAGE.rglob("*.py") for name in named.findall(path.read_text(encoding="utf-8"))}
    assert found
    assert [name for name in found if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("line", sorted(line for line in set(command_lines()) if line.startswith("make ")))
def test_targets_of_make_exist(line: str) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line.split()[1] in targets


def test_the_protocol_has_its_parts_in_order() -> None:
    parts = re.findall(r"^## (\w+)", PROTOCOL, re.MULTILINE)
    assert parts == [
        "Terms",
        "Invariants",
        "Directory",
        "File",
        "Writer",
        "Reader",
        "Assumptions",
        "Waiting",
        "Appendix",
    ]


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
    fields = getattr(document, "__pydantic_fields__", {}) or {field.name for field in dataclasses.fields(document)}
    names = list(fields)
    assert [name for name in names if f"`{name}`" not in PROTOCOL] == []
    assert names


def test_the_import_rule_is_the_one_that_is_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (rule,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    shown = "\n".join(rule["layers"]) + "\n"
    assert shown in blocks(PAGES["architecture"])


def constants(path: Path) -> Iterator[str]:
    """The docstrings of a module's constants: string literals after an assignment at the top level."""
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    for before, after in itertools.pairwise(statements):
        if not (isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr)):
            continue
        if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            yield after.value.value


def test_docstrings_of_constants_begin_with_a_noun() -> None:
    modules = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    headless = [
        f"{path.relative_to(ROOT)}: {text}" for path in modules for text in constants(path) if HEADLESS.match(text)
    ]
    assert headless == []


def test_names_of_tests_say_behaviour() -> None:
    names = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
    modules = sorted((ROOT / "tests").rglob("*.py"))
    found = [(path, name) for path in modules for name in names.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 1000
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in found if HEADLESS.match(name)] == []
