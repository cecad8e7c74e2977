"""Whole runs on the local service: the same bits as in one process, whatever Lambda's rules do to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Start, digest
from estafeta import local
from estafeta.client.backend import Backend
from estafeta.client.connect import TEMPLATE, connect
from estafeta.errors import RunFailed
from estafeta.protocol.spec import Choice

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(180)]

TINY = {"epochs": 1, "batch_size": 512}


TOPOLOGIES = pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_local_and_inline_give_the_same_bits(on_local: Backend, inline: Backend, begin: Start, workers: int) -> None:
    expected = digest(begin(inline, "small.py:job", workers))
    for topology in ("merge", "sharded", "replicated"):
        assert digest(begin(on_local, "small.py:job", workers, topology=topology)) == expected
    assert digest(begin(on_local, "small.py:job", workers)) == expected


@pytest.mark.parametrize("topology", ["sharded", "replicated"])
def test_legs_do_not_show(on_local: Backend, inline: Backend, begin: Start, topology: Choice) -> None:
    """GIVEN a limit of 3 s and steps that wait WHEN each rank lives six legs or more THEN the bits are the same."""
    options: dict[str, object] = {"epochs": 6, "batch_size": 96}
    expected = digest(begin(inline, "small.py:job", 3, options))
    slow = {**options, "model.work_s": 0.1, "worker.timeout_s": 3}
    run = begin(on_local, "small.py:job", 3, slow, topology=topology)
    assert digest(run) == expected
    assert run.usage.legs >= 3 * 6


@TOPOLOGIES
def test_a_share_longer_than_the_time_limit_is_continued(
    on_local: Backend, inline: Backend, begin: Start, topology: Choice
) -> None:
    """GIVEN a share of 8 micro-batches of half a second WHEN an invocation may take 3 s THEN the bits are the same."""
    options = {**TINY, "drop_last": True}
    expected = digest(begin(inline, "small.py:job", 2, options))
    slow = {**options, "model.work_s": 0.5, "worker.timeout_s": 3}
    run = begin(on_local, "small.py:job", 2, slow, topology=topology)
    assert digest(run) == expected
    rounds = run.status().version + run.status().epoch
    assert run.usage.legs > 2 * rounds, "no share was continued"


def test_without_recursive_loop_allow_the_run_fails_and_says_why(
    tmp_path: Path, begin: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE.read_text().replace("RecursiveLoop: Allow", "RecursiveLoop: Terminate"))
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path))
    try:
        run = begin(connect("local", template=template), "small.py:job", 2, {"epochs": 50}, topology="merge")
        with pytest.raises(RunFailed, match="recursive loop detection") as caught:
            run.wait()
        assert "RecursiveLoop: Allow" in caught.value.hint
        assert 8 <= run.status().version <= 17
    finally:
        local.stop(tmp_path)


def test_a_model_that_does_not_fit_names_limit_and_cure(on_local: Backend, begin: Start) -> None:
    options = {**TINY, "model.megabytes": 300, "worker.memory_mb": 600}
    with pytest.raises(RunFailed, match="ran out of memory") as caught:
        begin(on_local, "small.py:big", 2, options).wait()
    assert "600 MB" in str(caught.value)
    assert "worker.memory_mb" in caught.value.hint


@TOPOLOGIES
def test_a_loss_of_nan_ends_the_run_and_keeps_the_last_good_version(
    on_local: Backend, begin: Start, tmp_path: Path, topology: Choice
) -> None:
    run = begin(on_local, "small.py:diverging", 2, topology=topology)
    with pytest.raises(RunFailed, match=r"The loss is nan on rank \d in round train-\d+"):
        run.wait()
    assert run.status().version >= (topology == "merge")  # residents do not save each version
    assert run.export(tmp_path, "final").stat().st_size > 64 * 10 * 4


def test_fewer_rows_than_workers_is_a_usage_error(on_local: Backend, begin: Start) -> None:
    with pytest.raises(RunFailed, match=r"3 training rows.*fewer than the 4 workers") as caught:
        begin(on_local, "small.py:few", 4).wait()
    assert caught.value.exit_code == 2


@TOPOLOGIES
def test_stop_and_resume_give_the_undisturbed_bits(
    on_local: Backend, inline: Backend, begin: Start, topology: Choice
) -> None:
    options = {"epochs": 6}
    expected = digest(begin(inline, "small.py:job", 2, options))
    run = begin(on_local, "small.py:job", 2, {**options, "model.work_s": 0.1}, topology=topology)
    next(status for status in run.follow() if status.version >= 3)
    run.stop()
    *_, stopped = run.follow()
    assert stopped.state == "stopped"
    assert stopped.outcome is not None
    assert stopped.outcome.version is not None
    assert stopped.outcome.version < 36
    run.resume()
    assert digest(run) == expected


def test_usage_counts_every_invocation_of_the_run(on_local: Backend, begin: Start) -> None:
    run = begin(on_local, "small.py:job", 2, TINY, topology="merge")
    digest(run)
    rounds = run.status().version + 1  # the validation at the end of the epoch
    usage = run.usage
    assert usage.legs == 2 * rounds
    assert usage.invocations["worker"] == 2 * rounds + 1  # one prepared the run
    assert usage.invocations["merge"] == rounds
    assert usage.retries == 0
    assert 0 < run.cost < 0.01
