"""Finding a job and the source that goes with it."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from estafeta.client.source import find_job, import_job
from estafeta.errors import UsageError, UserCodeError
from estafeta.job.user_code import load_job

JOB = """
import estafeta
from torch import nn
{imports}

def model():
    return nn.Linear(64, 10)

job = estafeta.Job(model=model, loss=nn.functional.cross_entropy, dataset="digits", optimizer=estafeta.SGD(lr=0.1))
{more}
"""


@pytest.fixture(autouse=True)
def _own_modules() -> Iterator[None]:
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if not name.startswith(("torch", "numpy", "estafeta")):
            del sys.modules[name]


def write(folder: Path, name: str = "shipped.py", imports: str = "", more: str = "") -> Path:
    path = folder / name
    path.write_text(JOB.format(imports=imports, more=more))
    return path


def test_the_only_job_of_a_file_needs_no_name(tmp_path: Path) -> None:
    job, place, code = import_job(str(write(tmp_path)))
    assert place == "shipped:job"
    assert code == {"shipped.py": (tmp_path / "shipped.py").read_text()}
    assert job.batch_size == 64


def test_modules_beside_it_are_shipped_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("")
    (tmp_path / "layers" / "dense.py").write_text("width = 3")
    (tmp_path / "unused.py").write_text("")
    _, _, code = import_job(str(write(tmp_path, imports="from layers.dense import width")))
    assert set(code) == {"shipped.py", "layers/__init__.py", "layers/dense.py"}


def test_modules_are_found_beside_it_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "beside.py").write_text("width = 3")
    write(tmp_path / "real", "script.py", imports="from beside import width")
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    monkeypatch.chdir(tmp_path / "link")  # where modules that have no file are, too, by what they say
    _, _, code = find_job(importlib.import_module("script").job)
    assert set(code) == {"script.py", "beside.py"}


def test_an_installation_below_it_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a job in a home folder that has a Python in it, too."""
    (tmp_path / "python" / "lib").mkdir(parents=True)
    (tmp_path / "python" / "lib" / "standard.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "python" / "lib"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "python" / "lib"))
    _, _, code = import_job(str(write(tmp_path, imports="import standard")))
    assert set(code) == {"shipped.py"}


def test_source_is_read_as_python_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + "# Естафета\n".encode())
    assert "Естафета" in import_job(str(path))[2]["shipped.py"]
    path.write_bytes(b"# coding: latin-1\n" + path.read_bytes().rpartition(b"#")[0] + b"# caf\xe9\n")
    with pytest.raises(UsageError, match=r"shipped.py is not text in UTF-8"):
        import_job(str(path))


def test_one_of_several_jobs_must_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, more="other = estafeta.SGD\nsecond = job.__class__(**{**vars(job), 'epochs': 3})")
    assert import_job(f"{path}:second")[0].epochs == 3
    with pytest.raises(UsageError, match="2 jobs") as caught:
        import_job(str(path))
    assert f"{path}:job, {path}:second" in caught.value.hint
    with pytest.raises(UsageError, match="no job named 'third'"):
        import_job(f"{path}:third")


def test_a_file_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        import_job(str(tmp_path / "none.py"))
    (tmp_path / "data.csv").write_text("")
    with pytest.raises(UsageError, match="is no Python file"):
        import_job(str(tmp_path / "data.csv"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match=r"no estafeta\.Job at its top level"):
        import_job(str(tmp_path / "empty.py"))
    with pytest.raises(UsageError, match="cannot be imported by name"):
        import_job(str(write(tmp_path, "my-job.py")))


def test_a_file_that_raises_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserCodeError, match=r"importing broken\.py raised ZeroDivisionError") as caught:
        import_job(str(tmp_path / "broken.py"))
    assert caught.value.exit_code == 2
    assert "1 / 0" in caught.value.traceback


@pytest.mark.parametrize("statement", ["from .layers import width", "import layers_of_mine"])
def test_a_failing_import_names_its_remedy(statement: str, tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text("width = 3")
    with pytest.raises(UserCodeError, match=r"importing shipped\.py raised") as caught:
        import_job(str(write(tmp_path, imports=statement)))
    assert str(tmp_path) in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_job_is_found_where_it_was_defined(tmp_path: Path) -> None:
    job, place, code = import_job(str(write(tmp_path)))
    assert find_job(job) == (job, place, code)
    copy = job.__class__(**vars(job))
    with pytest.raises(UsageError, match="not at the top level of a module"):
        find_job(copy)


def test_a_job_that_was_read_from_standard_input(tmp_path: Path) -> None:
    job, _, _ = import_job(str(write(tmp_path)))
    sys.modules["shipped"].__file__ = str(tmp_path / "<stdin>")
    with pytest.raises(UsageError, match="not at the top level of a module") as caught:
        find_job(job)
    assert caught.value.__notes__ == [f"try: {caught.value.hint}"]  # a traceback shows them


@pytest.mark.parametrize(
    ("module", "files"),
    [
        (
            "project.jobs.first",
            {"project/__init__.py", "project/width.py", "project/jobs/__init__.py", "project/jobs/first.py"},
        ),
        ("project", {"project/__init__.py", "project/width.py"}),
    ],
)
def test_a_job_in_a_package_is_imported_with_it(
    module: str, files: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project" / "jobs").mkdir(parents=True)
    (tmp_path / "project" / "width.py").write_text("width = 3")
    (tmp_path / "project" / "jobs" / "__init__.py").write_text("")
    write(tmp_path / "project" / "jobs", "first.py", imports="from ..width import width")
    write(tmp_path / "project", "__init__.py", imports="from .width import width")
    monkeypatch.syspath_prepend(tmp_path)
    _, place, code = find_job(importlib.import_module(module).job)
    assert place == f"{module}:job"
    assert set(code) == files
    taken = tmp_path / "runs" / "r" / "code"
    for name, text in code.items():
        (taken / name).parent.mkdir(parents=True, exist_ok=True)
        (taken / name).write_text(text)
    for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
        del sys.modules[name]
    assert load_job(str(taken), place).batch_size == 64
