"""The container image, as far as it goes without Docker: its files are there, its commands run, nothing is missing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from estafeta.client.connect import TEMPLATE
from estafeta.deploy.code_zip import NEEDS
from estafeta.deploy.wheels import Architecture, Target

ROOT = Path(__file__).parents[2]
PIP = ["pip", "install", "--no-cache-dir"]


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile, in order: word and text."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def of(word: str) -> list[str]:
    return [text for found, text in instructions() if found == word]


def installed() -> list[list[str]]:
    """The arguments of each `pip install`, the options and packages that are there if nobody builds with others."""
    defaults = {name: value.strip('"') for name, _, value in (text.partition("=") for text in of("ARG"))}
    commands = [shlex.split(re.sub(r"\$(\w+)", lambda found: defaults[found[1]], text)) for text in of("RUN")]
    return [command[len(PIP) :] for command in commands if command[: len(PIP)] == PIP]


def test_it_begins_with_lambdas_image_and_says_all_in_instructions_that_are_known() -> None:
    words = [word for word, _ in instructions()]
    assert words[0] == "FROM"
    assert set(words) == {"FROM", "ARG", "RUN", "COPY"}, "no USER, and no CMD: the template names the handlers"
    assert re.fullmatch(r"public\.ecr\.aws/lambda/python:3\.\d+", of("FROM")[0])


def test_pytorch_comes_from_its_own_index_and_the_rest_is_what_the_package_has() -> None:
    pytorch, others = installed()
    assert pytorch == ["--index-url", "https://download.pytorch.org/whl/cpu", "torch"]
    assert set(others) == {*NEEDS, "boto3"}


def test_image_has_the_handlers_that_the_template_calls(tmp_path: Path) -> None:
    """GIVEN an empty task folder WHEN the image is made in it THEN its handlers are found there, readable by all."""
    task = tmp_path / "task"
    variables = {**os.environ, "LAMBDA_TASK_ROOT": str(task), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for word, text in instructions():
        if word == "COPY":
            source, target = text.replace("${LAMBDA_TASK_ROOT}", str(task)).split()
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            Path(target, "functions/worker.py").chmod(0o600)  # as a checkout may have it
        elif word == "RUN" and not text.startswith("pip "):
            subprocess.run(["sh", "-c", text], env=variables, check=True, timeout=60)
    handlers = re.findall(r"ImageConfig:.*Command: \[([\w.]+)\.handler\]", TEMPLATE.read_text())
    assert len(handlers) == 3
    program = f"import {', '.join(handlers)}; print(estafeta.__file__, callable(estafeta.functions.worker.handler))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=task,
        capture_output=True,
        text=True,
        timeout=60,
        env={**variables, "PYTHONPATH": str(task)},
        check=True,
    )
    assert done.stdout.split() == [str(task / "estafeta/__init__.py"), "True"]
    assert list(task.glob("estafeta/functions/__pycache__/worker.*.pyc"))
    assert all(path.stat().st_mode & 0o004 for path in task.rglob("*"))


@pytest.mark.package
@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_pip_finds_wheels_for_the_python_of_the_image(architecture: Architecture, tmp_path: Path) -> None:
    """All but PyTorch, whose index is not PyPI."""
    python = of("FROM")[0].rpartition(":")[2]
    machine = Target(python, architecture).platform.partition("-")[0]
    platforms = [f"--platform=manylinux_2_{glibc}_{machine}" for glibc in (17, 28, 34)]
    subprocess.run(
        [
            sys.executable,
            "-m",
            *PIP,
            "--dry-run",
            "--quiet",
            "--only-binary=:all:",
            "--target",
            tmp_path,
            f"--python-version={python}",
            *platforms,
            *installed()[1],
        ],
        check=True,
        timeout=300,
    )
