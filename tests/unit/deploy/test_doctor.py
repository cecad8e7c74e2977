"""`estafeta doctor` on this machine: the order of the checks, and the finding of each when something is wrong."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from estafeta.cli.main import main
from estafeta.deploy.doctor import machine
from estafeta.deploy.doctor.check import Check, Finding, examine
from estafeta.errors import Ailment, EnvironmentProblem


def fine() -> str:
    return "as it should be"


def ailing() -> str:
    raise Ailment("too small", hint="a larger one")


def helpless() -> str:
    raise EnvironmentProblem("it is broken")


def refused() -> str:
    raise PermissionError(errno.EACCES, "Permission denied", "/x")


def test_each_check_passes_or_fails_with_its_cure() -> None:
    checks = [Check("a", fine), Check("b", ailing), Check("c", refused), Check("d", fine, needs=("a",))]
    found = list(examine(checks))
    assert found[0] == Finding("a", True, "as it should be")
    assert found[1] == Finding("b", False, "too small", "a larger one")
    assert (found[2].passed, found[2].detail) == (False, "[Errno 13] Permission denied: '/x'")
    assert found[2].cure
    assert found[3].passed
    (unknown,) = examine([Check("e", helpless)])
    assert "docs/troubleshooting.md" in unknown.cure


def test_checks_with_failed_needs_are_not_tried() -> None:
    def never() -> str:
        raise AssertionError

    found = list(examine([Check("a", ailing), Check("b", never, needs=("a",)), Check("c", never, needs=("a", "b"))]))
    assert [finding.passed for finding in found] == [False, None, None]
    assert found[2].detail == "not tried: a and b must pass first"


def test_a_defect_of_a_check_is_no_finding() -> None:
    def wrong() -> str:
        return str([][0])

    with pytest.raises(IndexError):
        list(examine([Check("a", wrong)]))


# the checks


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Finding]:
    """Make one check, in a home of the test's own."""
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))

    def look(name: str) -> Finding:
        (check,) = (check for check in machine.checks() if check.name == name)
        (finding,) = examine([Check(name, check.look)])
        return finding

    return look


def test_this_machine_is_well(look: Callable[[str], Finding], tmp_path: Path) -> None:
    for name in ("python", "packages", "port", "memory", "disk"):
        assert look(name).passed, look(name)
    assert not list((tmp_path / "home/store").rglob("*file*"))


def test_a_missing_package(look: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED", {**machine.NEEDED, "no-such-torch": "torch"})
    found = look("packages")
    assert (found.passed, found.detail) == (False, "Not installed: no-such-torch")
    assert found.cure == "pip install 'estafeta[torch]'"


def test_a_package_that_is_only_useful(look: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "USEFUL", {"no-such-reader": "odd files"})
    found = look("packages")
    assert found.passed
    assert "without no-such-reader: no odd files" in found.detail


def test_an_old_python(look: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_PYTHON", (3, 99))
    assert look("python").cure == "install Python 3.99 or newer"


def test_little_memory(look: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_group_limits", lambda: iter([("/small", 1024)]))
    found = look("memory")
    assert found.passed is False
    assert found.detail == "1,024 MB by the control group /small: 0 workers of 1769 MB at a time"
    assert "worker.memory_mb" in found.cure


def test_little_room(look: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 1 << 62)
    assert "ESTAFETA_HOME" in look("disk").cure


def test_a_home_that_is_no_folder(look: Callable[[str], Finding], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    found = look("disk")
    assert found.passed is False
    assert "home" in found.detail


def test_a_service_starts_for_the_doctor_alone(look: Callable[[str], Finding], tmp_path: Path) -> None:
    assert look("service") == Finding("service", True, "a local service started, and a function answered")
    assert not (tmp_path / "home").exists(), "the user's own service was touched"


def test_the_exit_code_and_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "NEEDED", {**machine.NEEDED, "no-such-torch": "torch"})
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass    python    Python 3.")
    assert lines[1:3] == [
        "fail    packages  Not installed: no-such-torch",
        "                  try: pip install 'estafeta[torch]'",
    ]
    assert lines[-1] == "-       service   not tried: packages must pass first"
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--json"])
    assert caught.value.code == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["on"], facts["healthy"]) == ("local", False)
    assert facts["checks"][1] == {
        "name": "packages",
        "passed": False,
        "detail": "Not installed: no-such-torch",
        "cure": "pip install 'estafeta[torch]'",
    }
