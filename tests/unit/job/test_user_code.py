"""Jobs are imported by name, from the run's own folder, and errors of their code are told apart from the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from core import jobs
from core.environment import forget
from estafeta.errors import Gone, UsageError, UserCodeError
from estafeta.job.user_code import is_importing, job_in, load_job, user_code

HEAD = "from estafeta import SGD, Job\nsettings = dict(model=print, loss=print, optimizer=SGD(), dataset='iris')\n"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    forget()
    yield
    forget()


def folder(tmp_path: Path, run: str, **modules: str) -> str:
    """Return a run's code folder."""
    code = tmp_path / "runs" / run / "code"
    for name, text in modules.items():
        path = code / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(code)


def module_with(**attributes: object) -> ModuleType:
    module = ModuleType("mine")
    vars(module).update(attributes)
    return module


def test_a_job_is_found_by_its_name(tmp_path: Path) -> None:
    code = folder(tmp_path, "r", mine=HEAD + "one = Job(epochs=1, **settings)\ntwo = Job(epochs=2, **settings)")
    assert load_job(code, "mine:two").epochs == 2
    assert load_job(code, "mine:one").epochs == 1


def test_modules_import_each_other(tmp_path: Path) -> None:
    code = folder(
        tmp_path,
        "r",
        mine=HEAD + "import parts.sizes\njob = Job(epochs=parts.sizes.EPOCHS, **settings)",
        parts__sizes="EPOCHS = 7",
    )
    assert load_job(code, "mine:job").epochs == 7


def test_modules_of_another_run_have_the_same_names(tmp_path: Path) -> None:
    folders = [
        folder(
            tmp_path,
            run,
            mine=HEAD + "import sizes\njob = Job(epochs=sizes.EPOCHS, **settings)",
            sizes=f"EPOCHS = {epochs}",
        )
        for run, epochs in (("first", 1), ("second", 2))
    ]
    assert load_job(folders[0], "mine:job").epochs == 1
    assert load_job(folders[1], "mine:job").epochs == 2
    assert load_job(folders[0], "mine:job").epochs == 1
    assert folders[1] not in sys.path


def test_a_folder_of_modules_is_left_behind_too(tmp_path: Path) -> None:
    """The folder of the first run has no `__init__.py`, that of the second has one."""
    text = HEAD + "from parts.sizes import EPOCHS\njob = Job(epochs=EPOCHS, **settings)"
    folders = [
        folder(tmp_path, "first", mine=text, parts__sizes="EPOCHS = 1"),
        folder(tmp_path, "second", mine=text, parts__sizes="EPOCHS = 2", parts____init__=""),
    ]
    for code, epochs in zip(folders * 2, (1, 2) * 2, strict=True):
        assert load_job(code, "mine:job").epochs == epochs


def test_importing_writes_nothing(tmp_path: Path) -> None:
    code = folder(tmp_path, "r", mine=HEAD + "import sizes\njob = Job(**settings)", sizes="")
    load_job(code, "mine:job")
    assert {path.name for path in Path(code).iterdir()} == {"mine.py", "sizes.py"}


def test_a_module_can_tell_that_it_is_being_imported(tmp_path: Path) -> None:
    text = "from estafeta.job.user_code import is_importing\nepochs = 1 + is_importing()\n"
    text += "job = Job(epochs=epochs, **settings)"
    assert load_job(folder(tmp_path, "r", mine=HEAD + text), "mine:job").epochs == 2
    assert not is_importing()
    with pytest.raises(UserCodeError):
        load_job(folder(tmp_path, "s", mine="1 / 0"), "mine:job")
    assert not is_importing()


def test_a_module_that_is_missing(tmp_path: Path) -> None:
    code = folder(tmp_path, "r", mine=HEAD + "job = Job(**settings)", other="import missing_package")
    with pytest.raises(UsageError, match="has no module 'yours'") as caught:
        load_job(code, "yours:job")
    assert caught.value.hint == "there is: mine, other"
    with pytest.raises(UserCodeError, match=r"importing other\.py raised ModuleNotFoundError") as caught:
        load_job(code, "other:job")
    assert 'other.py", line 1' in caught.value.traceback


def test_the_only_job_needs_no_name() -> None:
    assert job_in(module_with(job=jobs.plain), None) is jobs.plain
    assert job_in(module_with(job=jobs.plain), "") is jobs.plain
    assert job_in(module_with(a=jobs.plain, b=jobs.adam), "b") is jobs.adam


@pytest.mark.parametrize(
    ("attributes", "name", "message", "hint"),
    [
        ({}, None, "has no estafeta.Job", "job = estafeta.Job(…)"),
        ({"job": 3}, "job", "has no estafeta.Job", "job = estafeta.Job(…)"),
        ({"a": jobs.plain, "b": jobs.adam}, None, "has 2 jobs", "mine:a, mine:b"),
        ({"a": jobs.plain}, "c", "has no job named 'c'", "mine:a"),
    ],
)
def test_an_unclear_job_is_asked_for(attributes: dict[str, object], name: str | None, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        job_in(module_with(**attributes), name)
    assert hint in caught.value.hint


@pytest.mark.parametrize("error", [OSError(5, "gone"), MemoryError("no"), Gone("swept"), KeyboardInterrupt()])
def test_an_error_that_is_not_the_users_fault_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, user_code("reading"):
        raise error
    assert caught.value is error


def test_an_exception_of_the_user_is_kept() -> None:
    def divide(number: float) -> float:
        return number / 0

    message = "the metric 'f1' raised ZeroDivisionError: division by zero"
    with pytest.raises(UserCodeError, match=message) as caught, user_code("the metric 'f1'"):
        divide(1)
    assert "in divide" in caught.value.traceback
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("model", "target", "hint"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 0, "drop_last=true"),
        (nn.Linear(2, 3), 3, "numbered from 0"),
        (nn.Linear(2, 3), -1, "numbered from 0"),
        (nn.Linear(1, 3), 0, ""),
    ],
)
def test_a_message_of_pytorch_gets_a_hint(model: nn.Module, target: int, hint: str) -> None:
    with pytest.raises(UserCodeError) as caught, user_code("the forward pass"):
        nn.functional.cross_entropy(model(torch.zeros(1, 2)), torch.tensor([target]))
    assert hint in caught.value.hint
    assert bool(hint) == bool(caught.value.hint)
