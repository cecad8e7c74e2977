"""What is drawn where: results, talk, JSON, tables; and the words for a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from estafeta.cli.console import Console
from estafeta.cli.words import run as words
from estafeta.cli.words.error import Complaint
from estafeta.client.summary import Best, Summary
from estafeta.cost.cost import Bill, Kept
from estafeta.cost.meter import Traffic
from estafeta.job.stopping import EarlyStopping, EpochRecord
from estafeta.protocol.spec import Failure, FunctionSettings, Limits, Outcome, RunSpec, Status

SETTINGS = {role: FunctionSettings(name=role, memory_mb=1769, timeout_s=900) for role in ("worker", "merge", "control")}
SPEC = RunSpec(
    token="t",
    run="digits-1a2b3c",
    created_at=1000.0,
    estafeta="0",
    job="digits:job",
    workers=4,
    seed=7,
    batch_size=256,
    micro_batch_size=64,
    drop_last=False,
    epochs=20,
    validation=0.2,
    optimizer={},
    early_stopping=EarlyStopping(),
    functions=SETTINGS,
)
RECORD = EpochRecord(
    token="t",
    epoch=1,
    version=6,
    metrics={"train_loss": 2.0, "valid_loss": 1.5},
    best_version=6,
    best_value=1.5,
    stale_epochs=0,
    stop=None,
    ended_at=1003.0,
)
SUMMARY = Summary(
    run="digits-1a2b3c",
    state="done",
    on="local",
    steps=6,
    epochs=1,
    workers=4,
    topology="merge",
    metrics=RECORD.metrics,
    best=Best(6, "valid_loss", 1.5),
    missed={},
    why="",
    weights_sha256=None,
    invocations={"control": 5, "merge": 3, "worker": 8},
    rounds_per_s=None,
    legs=8,
    retries=1,
    chaos=None,
    billed_gb_seconds=35.1,
    costs=Bill(0.000467, 0.000003, 0.0, 0.0, 0.0, 0.0, 0.00007, 0.0),
    kept=Kept(run_bytes=250_000),
    prices="list prices of a day",
    traffic=Traffic(),
    limits=Limits(),
    train_s=79.0,
    wall_s=83.0,
    model_path=None,
    error=None,
)


def status(**changes: Any) -> Status:
    facts: dict[str, Any] = {
        "spec": SPEC,
        "state": "running",
        "outcome": None,
        "version": 6,
        "total_steps": 120,
        "steps_per_epoch": 6,
        "train_rows": 1438,
        "valid_rows": 359,
        "parameters": 9610,
        "topology": "merge",
        "epoch": 1,
        "epochs": (RECORD,),
    }
    return Status(**{**facts, **changes})


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Standard output and error are a terminal of 60 columns; gives what has been written there since the last call."""
    for name, value in {"COLUMNS": "60", "TERM": "xterm-256color", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return lambda: "".join(capsys.readouterr())


def test_results_and_talk_go_their_own_ways(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.results([("run", "a"), ("", "b")])
    console.talk([("note", "c")])
    out, err = capsys.readouterr()
    assert out == "run     a\n        b\n"
    assert err == "note    c\n"


def test_further_lines_of_a_text_stand_beside_its_label(capsys: pytest.CaptureFixture[str]) -> None:
    Console().insist(Complaint("line 2:\n  ^").lines())
    assert capsys.readouterr().err == "error   line 2:\n          ^\n"


def test_an_empty_line_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    Console().insist([("", ""), ("note", "that"), ("", "more")])
    assert capsys.readouterr().err == "\nnote    that\n        more\n"


def test_quiet_leaves_results_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.talk([("note", "c")])
    console.epochs(status()).show(status())
    console.insist(Complaint("it broke", hint="mend it").lines())
    console.results([("done", "at last")])
    out, err = capsys.readouterr()
    assert out == "done    at last\n"
    assert err == "error   it broke\ntry     mend it\n"


def test_json_is_one_strict_line_and_epochs_are_talk(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(machine=True)
    console.epochs(status()).show(status())
    console.json({"metrics": {"valid_loss": math.nan}, "list": [math.inf, 1.0], "text": "[bold] :smile: " + "x" * 500})
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out, parse_constant=lambda text: pytest.fail(text)) == {
        "metrics": {"valid_loss": None},
        "list": [None, 1.0],
        "text": "[bold] :smile: " + "x" * 500,
    }
    assert err.splitlines()[0].split() == ["epoch", "train_loss", "valid_loss", "steps/s", "time"]


def test_without_a_terminal_nothing_moves_wraps_or_shines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.lively(console.progress().draw(status()))
    console.results([("price", "word " * 100)])
    console.epochs(status()).show(status())
    console.still()
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert out.splitlines()[0] == "price   " + "word " * 99 + "word"


def test_on_a_terminal_long_texts_are_wrapped_beside_their_label(screen: Callable[[], str]) -> None:
    Console().results([("price", "word " * 20)])
    first, second, *_ = re.sub(r"\x1b\[[0-9;]*m", "", screen()).splitlines()
    assert first.startswith("price   word")
    assert second.startswith("        word")
    assert len(first) <= 60


def test_the_best_value_shines_unless_colour_is_unwanted(
    screen: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Console().epochs(status()).show(status())
    assert "\x1b[1;32m    1.5000\x1b[0m" in screen()
    monkeypatch.setenv("NO_COLOR", "1")
    Console().epochs(status()).show(status())
    assert "32m" not in screen()


def test_the_live_line_vanishes(screen: Callable[[], str]) -> None:
    console = Console()
    console.lively(console.progress().draw(status()))
    drawn = screen()
    assert "step 6/120" in drawn
    assert "epoch 2/20" in drawn
    console.still()
    assert "\x1b[2K" in screen(), "the line is not erased"


def test_a_live_line_that_is_too_long_loses_words_not_letters(screen: Callable[[], str]) -> None:
    console = Console()
    console.lively(console.progress().draw(status(spent_usd=0.0123)))
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen())
    console.still()
    assert "…" not in drawn
    assert {"running", "epoch 2/20", "step 6/120"} <= set(re.split(" {2,}", drawn.strip()))
    assert "$" not in drawn


def test_the_live_line_tells_that_a_run_is_being_prepared(screen: Callable[[], str]) -> None:
    console = Console()
    console.lively(console.progress().draw(status(state="preparing", total_steps=None)))
    assert "preparing" in screen()
    console.still()


def test_only_the_last_epochs_are_shown_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    records = tuple(
        RECORD.model_copy(update={"epoch": n, "version": 6 * n, "ended_at": 1000 + 3 * n}) for n in range(1, 6)
    )
    Console().epochs(status()).show(status(epochs=records), last=2)
    _, note, *rows = capsys.readouterr().out.splitlines()
    assert note == "  … 3 epochs before"
    assert [row.split()[0] for row in rows] == ["4", "5"]
    assert [row.split()[-2] for row in rows] == ["2.0", "2.0"]


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table(("run", "state"), [("digits-1a2b3c", "done"), ("a", "failed")])
    assert capsys.readouterr().out.splitlines() == [
        "run            state",
        "digits-1a2b3c  done",
        "a              failed",
    ]


def test_a_table_loses_its_spare_columns_on_a_narrow_terminal(screen: Callable[[], str]) -> None:
    cells = ["a" * 20, "b" * 20, "c" * 20, "d" * 20]
    Console().table(("1", "2", "3", "4"), [cells], spare=("3", "2", "1"))
    *_, row = re.sub(r"\x1b\[[0-9;]*m", "", screen()).splitlines()
    assert row.split() == [cells[0], cells[3]]


def test_a_cell_of_a_table_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table(("note", "x"), [("a\nb\x1b", "1")])
    assert capsys.readouterr().out == "note      x\na\\nb\\x1b  1\n"


def test_a_run_is_described_once_it_is_prepared() -> None:
    assert words.identity(status(), "local") == [("run", "digits-1a2b3c   local, 4 workers x 1769 MB")]
    assert words.plan(status(steps_per_epoch=None)) == []
    assert words.plan(status()) == [
        ("model", "digits:job   9,610 parameters, 38.4 kB"),
        ("data", "1,438 rows to train, 359 to validate"),
        ("plan", "20 epochs of 6 steps, batches of 256, seed 7, merge topology"),
    ]


def test_the_ending_says_what_became_of_the_run(tmp_path: Any) -> None:
    outcome = Outcome(token="t", state="done", why="all epochs are done", ended_at=1079.0)
    lines = words.ending(status(state="done", outcome=outcome), SUMMARY, {"final": tmp_path})
    assert lines[:3] == [
        ("done", "01:19   all epochs are done"),
        ("best", "valid_loss 1.5000 (epoch 1)"),
        ("work", "8 worker, 3 merge, 5 control invocations, 1 retry, 35.1 GB-seconds"),
    ]
    assert lines[3:6] == [
        ("price", "$0.000470 if it had run on AWS: compute $0.000467, requests $0.000003"),
        ("", "list prices of a day, for functions as fast as this machine's"),
        ("kept", "250 kB on EFS, $0.000070 a month until removed"),
    ]
    assert dict(lines)["files"] == str(tmp_path)


@pytest.mark.parametrize(
    ("exit_code", "total_steps", "verbs"),
    [
        (1, 120, ["resume", "export"]),
        (2, 120, ["resume", "export"]),
        (1, None, ["resume", "clean"]),
        (2, None, ["clean"]),
    ],
)
def test_after_a_failure_only_what_can_work_is_proposed(
    exit_code: int, total_steps: int | None, verbs: list[str]
) -> None:
    failure = Failure(reason="X", message="m", exit_code=exit_code, function="f")
    outcome = Outcome(token="t", state="failed", why="m", ended_at=1079.0, failure=failure)
    lines = words.ending(status(state="failed", outcome=outcome, total_steps=total_steps), SUMMARY, {})
    assert dict(lines)["next"] == "   ".join(f"`estafeta {verb} digits-1a2b3c`" for verb in verbs)


@pytest.mark.parametrize(
    ("limits", "facts", "flag"),
    [
        ({"max_rounds": 40}, {"version": 40}, "--max-rounds 80"),
        ({"max_rounds": 40}, {"version": 144}, "--max-rounds 184"),
        ({"max_cost_usd": 0.5}, {"spent_usd": 0.501}, "--max-cost 1"),
        ({"max_cost_usd": 0.5}, {"spent_usd": 1.5}, "--max-cost 2"),
        ({"max_hours": 2}, {}, "--max-hours 2"),
        ({"max_cost_usd": 0.5, "max_rounds": 40}, {"version": 40, "spent_usd": 0.1}, "--max-rounds 80"),
        ({"max_cost_usd": 0.5, "max_rounds": 40}, {"version": 9, "spent_usd": 0.49}, "--max-cost 1"),
        ({"max_cost_usd": 0.5, "max_hours": 0.25, "since": 100.0}, {"spent_usd": 0.1}, "--max-hours 0.25"),
        ({"max_cost_usd": 0.5, "max_hours": 0.25, "since": 1000.0}, {"spent_usd": 0.5}, "--max-cost 1"),
    ],
)
def test_after_a_limit_the_next_command_has_one_that_is_not_reached(
    limits: dict[str, float], facts: dict[str, float], flag: str
) -> None:
    outcome = Outcome(token="t", state="stopped", why="a limit", limited=True, ended_at=1079.0)
    stopped = status(state="stopped", outcome=outcome, limits=Limits(**limits), **facts)
    assert dict(words.ending(stopped, SUMMARY, {}))["next"].startswith(f"`estafeta resume digits-1a2b3c {flag}` ")


def test_a_late_rank_is_told() -> None:
    lines = words.ending(status(state="done"), replace(SUMMARY, missed={0: 1, 3: 12}), {})
    assert ("late", "rank 0 missed 1 round, rank 3 missed 12 rounds") in lines


def test_on_aws_the_price_is_no_if() -> None:
    lines = dict(words.ending(status(state="stopped"), replace(SUMMARY, on="aws"), {}))
    assert lines["price"] == "$0.000470: compute $0.000467, requests $0.000003"
    assert lines["next"].startswith("`estafeta resume digits-1a2b3c`")


def test_data_that_a_run_reads_is_kept_too() -> None:
    costs = replace(SUMMARY.costs, storage=0.00002, storage_month=0.84, upload=0.0004)
    kept = Kept(run_bytes=250_000, data_bytes=3_000_000_000)
    lines = words.bill(replace(SUMMARY, costs=costs, kept=kept))
    assert lines[1][1].endswith("compute $0.000467, requests $0.000003, storage $0.000020")
    assert lines[3:] == [
        ("kept", "250 kB and 3.0 GB of data on EFS, $0.84 a month until removed"),
        ("", "bringing the data in through S3 takes $0.000400, once"),
    ]


def test_a_run_without_a_log_is_not_priced() -> None:
    assert words.bill(replace(SUMMARY, invocations={})) == []


def test_a_run_that_goes_on_and_one_that_has_ended() -> None:
    assert words.standing(status(), now=1060.0) == [
        ("state", "running, epoch 1 of 20, 6 of 120 steps, started 1 min ago")
    ]
    outcome = Outcome(token="t", state="stopped", why="on request", ended_at=1030.0)
    assert words.standing(status(state="stopped", outcome=outcome), now=1060.0) == [
        ("state", "stopped: on request; epoch 1 of 20, 6 of 120 steps, started 1 min ago, took 00:30")
    ]
