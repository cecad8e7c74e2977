"""The script that installs Estafeta for `make demo`: what it shows of pip's output."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("install", Path(__file__).parents[2] / "scripts/install.py")
assert SPEC
assert SPEC.loader
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (190.3 MB)", "torch 2.13.0 (190.3 MB)"),
        ("  Downloading https://host/a/pyyaml-6.0.3-cp311-cp311-x.whl.metadata (2 kB)", ""),
        ("Processing /wheels/rich-15.0.0-py3-none-any.whl (from estafeta==0.1.0)", "rich 15.0.0"),
        ("Installing collected packages: mpmath, six, torch", "copying 3 packages to .venv"),
        ("Requirement already satisfied: six in ./.venv/lib", ""),
    ],
)
def test_lines_of_pip_become_progress(line: str, shown: str) -> None:
    assert install.progress(line) == shown


def test_lines_come_whole_and_silence_is_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SILENCE_S", 0.01)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        lines = install.lines(output)
        os.write(writer, b"one\n\nt")
        assert next(lines) == "one"
        assert next(lines) == ""
        os.write(writer, b"wo\n")
        assert next(lines) == "two"
        os.close(writer)
        assert list(lines) == []
