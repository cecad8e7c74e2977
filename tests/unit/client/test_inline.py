"""The invoker that carries out its own events. That its bits are everybody's is shown in `tests/core/test_bits.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.environment import forget
from core.specs import CODE, FUNCTIONS, spec_of
from estafeta.client.inline import InlineInvoker
from estafeta.protocol.layout import RunLayout

MEMORY_MB = {role: function.memory_mb for role, function in FUNCTIONS.items()}


@pytest.fixture
def invoker(tmp_path: Path) -> InlineInvoker:
    forget()
    return InlineInvoker(os.fspath(tmp_path), MEMORY_MB)


def start(invoker: InlineInvoker, code: dict[str, str] = CODE) -> None:
    spec = spec_of("plain")
    assert invoker.call("control", {"verb": "start", "spec": spec.model_dump(), "code": code}) == {"run": "r"}


def test_events_wait_for_their_turn(invoker: InlineInvoker, tmp_path: Path) -> None:
    assert not invoker.step()
    start(invoker)
    plan = tmp_path / RunLayout("r").plan
    assert not plan.exists()
    assert invoker.step()
    assert plan.exists()
    assert invoker.usage["r"].invocations == {"control": 1, "worker": 1}


def test_a_call_is_answered_at_once(invoker: InlineInvoker) -> None:
    start(invoker)
    assert invoker.call("control", {"verb": "status", "run": "r"})["state"] == "preparing"
    invoker.step()
    assert invoker.call("control", {"verb": "status", "run": "r"})["state"] == "running"
    assert invoker.usage["r"].billed_gb_seconds > 0


def test_an_error_arrives_where_it_can_be_seen(invoker: InlineInvoker) -> None:
    code = {"jobs.py": CODE["jobs.py"].replace("def mlp()", "def mlp(path='missing')") + "\nopen('missing')\n"}
    start(invoker, code)
    with pytest.raises(FileNotFoundError):
        invoker.step()


def test_nothing_is_written_to_standard_output(invoker: InlineInvoker, capsys: pytest.CaptureFixture[str]) -> None:
    start(invoker)
    while invoker.step():
        pass
    assert capsys.readouterr().out == ""
