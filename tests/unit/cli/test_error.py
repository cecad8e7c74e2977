"""Errors and failures as a user reads them."""

from __future__ import annotations

import traceback

import pytest
from botocore.exceptions import EndpointConnectionError

from estafeta.cli.words.error import of_error, of_failure
from estafeta.errors import EnvironmentProblem, UserCodeError
from estafeta.protocol.spec import Failure

ON_LAMBDA = """Traceback (most recent call last):
  File "/var/task/estafeta/learner.py", line 166, in _forward
    output = self.model(*inputs)
  File "/mnt/estafeta/runs/digits-1a2b3c/code/digits.py", line 12, in forward
    return self.inner(x)
  File "/mnt/estafeta/runs/digits-1a2b3c/code/parts/inner.py", line 7, in forward
    return x @ self.weight
  File "/opt/python/torch/functional.py", line 1, in matmul
    raise RuntimeError("shapes")
RuntimeError: shapes
"""


def test_a_failure_names_the_users_own_line_and_the_log() -> None:
    failure = Failure(
        reason="UserCodeError",
        message="it raised",
        hint="mend it",
        exit_code=2,
        function="estafeta-worker",
        rank=3,
        traceback=ON_LAMBDA,
    )
    complaint = of_failure(failure, "digits-1a2b3c", "aws")
    assert complaint.lines() == [
        ("error", "it raised"),
        ("why", "inner.py, line 7, in forward: return x @ self.weight"),
        ("try", "mend it"),
        ("log", "`estafeta logs digits-1a2b3c --function worker --rank 3`"),
    ]
    assert complaint.exit_code == 2


def test_unknown_facts_are_left_out() -> None:
    theirs = ON_LAMBDA.replace("/runs/digits-1a2b3c/code/", "/elsewhere/")
    failure = Failure(reason="X", message="it raised", traceback=theirs, function="estafeta-merge")
    assert of_failure(failure, "r", "local").lines() == [
        ("error", "it raised"),
        ("log", "`estafeta logs r --function merge`"),
    ]
    plain = Failure(reason="X", message="it raised", function="estafeta-merge")
    assert of_failure(plain, "r", "inline").lines() == [("error", "it raised")]


def test_an_error_keeps_its_hint_and_exit_code() -> None:
    complaint = of_error(EnvironmentProblem("no service", hint="start one"))
    assert complaint.lines() == [("error", "no service"), ("try", "start one")]
    assert complaint.exit_code == 3


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def build():\n    return missing\nbuild()", "digits.py, line 2, in build"),
        ("1 +", "digits.py, line 1: 1 +"),
        ("import re\nre.compile('(')", "digits.py, line 2, in <module>"),
    ],
)
def test_an_error_in_the_users_module_is_located(source: str, why: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one is not the point)
        exec(compile(source, "/home/me/digits.py", "exec"), {})
    trace = "".join(traceback.format_exception(caught.value))
    assert of_error(UserCodeError("it raised", traceback=trace)).why == why


def test_networks_and_files_are_the_environments_fault() -> None:
    unreachable = of_error(EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))
    assert unreachable.exit_code == 3
    assert "127.0.0.1:1" in unreachable.headline
    assert of_error(PermissionError(13, "Permission denied", "runs")).exit_code == 3


def test_a_home_that_cannot_be_written_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTAFETA_HOME", "/ro/home")
    assert "ESTAFETA_HOME=" in of_error(OSError(30, "Read-only file system", "/ro/home/store")).hint
    assert of_error(OSError(30, "Read-only file system", "/ro/other")).hint == ""


def test_everything_else_is_ours() -> None:
    complaint = of_error(KeyError("x"))
    assert complaint.exit_code == 70
    assert complaint.headline == "internal error: KeyError: 'x'"
    assert "-v" in complaint.hint
