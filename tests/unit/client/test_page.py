"""The report of a run: its charts, its timeline, and the page of each kind of run."""

from __future__ import annotations

import json
import math
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estafeta.cli.main import estafeta as command_line
from estafeta.client.logbook import Entry
from estafeta.client.report.charts import MOST_POINTS, line_chart, scale, thinned, ticks
from estafeta.client.report.page import Facts, commands_of, page
from estafeta.client.report.timeline import Span, coalesced, packed, spans_of, timeline
from estafeta.client.summary import Chaos, Summary
from estafeta.cost.cost import Bill, Kept
from estafeta.cost.meter import Traffic
from estafeta.job.stopping import EarlyStopping, EpochRecord
from estafeta.protocol.spec import Failure, FunctionSettings, Limits, Origin, Outcome, RunSpec, Status

EVIL = "<script>alert('&')</script>"
VOID = ("meta",)
MOST_BYTES = 3_000_000


class Page(HTMLParser):
    """A parser that checks that elements are closed in their order, and keeps texts and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onload"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def record(epoch: int, best: int = 1, **metrics: float) -> EpochRecord:
    return EpochRecord(
        token="t",
        epoch=epoch,
        version=6 * epoch,
        metrics=metrics or {"train_loss": 1 / epoch, "valid_loss": 1.0},
        best_version=6 * best,
        best_value=0.5,
        stale_epochs=epoch - best,
        stop=None,
        ended_at=1000.0 + epoch,
    )


def entry(number: int, *, rank: int = 0, at: int = 0, ms: int = 10, more: str = "", **note: Any) -> Entry:
    request = f"id{number}"
    first = {"run": "r-1", "request_id": request, "task": "reside", "rank": rank, "leg": number}
    lines = [json.dumps(first), json.dumps({"run": "r-1", "request_id": request, **note})]
    report = f"REPORT RequestId: {request}\tDuration: {ms}.00 ms\tBilled Duration: {ms} ms\tMemory Size: 1769 MB\t"
    return Entry("worker", request, at, lines, first, report + more if ms else "")


def facts(
    *records: EpochRecord,
    outcome: Outcome | None = None,
    entries: list[Entry] | None = None,
    on: str = "local",
    **changes: Any,
) -> Facts:
    functions = {"worker": FunctionSettings(name="s-worker", memory_mb=1769, timeout_s=9)}
    spec: dict[str, Any] = {
        "token": "t",
        "run": "r-1",
        "created_at": 1000.0,
        "estafeta": "0.1.0",
        "job": "digits:job",
        "workers": 2,
        "seed": 7,
        "batch_size": 64,
        "micro_batch_size": 64,
        "drop_last": True,
        "epochs": 9,
        "validation": 0.1,
        "optimizer": {"name": "SGD", "lr": 0.1},
        "early_stopping": EarlyStopping(),
        "functions": functions,
    }
    found = Status(
        spec=RunSpec(**{**spec, **changes}),
        state=outcome.state if outcome else "running",
        outcome=outcome,
        topology="sharded",
        version=6,
        total_steps=54,
        steps_per_epoch=6,
        train_rows=384,
        valid_rows=32,
        parameters=650,
        epoch=len(records),
        epochs=records,
    )
    costs = Bill(0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    summary = Summary(
        run=found.spec.run,
        state=found.state,
        on=on,
        steps=found.version,
        epochs=found.epoch,
        workers=found.spec.workers,
        topology="sharded",
        metrics={},
        best=None,
        missed={0: 0, 1: 3},
        why="",
        weights_sha256=None,
        invocations={"worker": len(entries)} if entries else {},
        rounds_per_s=2.5,
        legs=1,
        retries=1,
        chaos=Chaos("kill=0.1", {"kill": 4}) if changes.get("chaos") else None,
        billed_gb_seconds=1.0,
        costs=costs,
        kept=Kept(),
        prices="list prices",
        traffic=Traffic(),
        limits=Limits(),
        train_s=9.0,
        wall_s=9.0,
        model_path=None,
        error=None,
    )
    return Facts(found, summary, entries, now=1010.0)


def failed(text: str = "it broke") -> Outcome:
    failure = Failure(
        reason="user",
        message=text,
        hint=f"mend {text}",
        rank=1,
        round="train-00000003",
        log_group="/aws/lambda/s-worker",
        log_stream="stream",
        traceback=text,
    )
    return Outcome(token="t", state="failed", failure=failure, ended_at=1009.0)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, length: float) -> None:
    found = ticks(low, low + length)
    assert 1 <= len(found) <= 6
    assert all(low - length * 1e-6 <= tick <= low + length * (1 + 1e-6) for tick in found)


def test_ticks_are_round() -> None:
    assert ticks(0, 1) == [0, 0.5, 1.0]
    assert ticks(0.13, 0.47) == [0.2, 0.3, 0.4]
    assert ticks(3, 3) == [3]


def test_a_scale_turns_over_and_knows_the_middle() -> None:
    assert scale(0, 10, 100, 0, 2.5) == 75
    assert scale(1, 1, 0, 50, 1) == 25


def test_thinning_keeps_every_spike() -> None:
    points = [(float(x), 0.0) for x in range(5000)]
    points[1234] = (1234.0, 9.0)
    points[4000] = (4000.0, -9.0)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert {points[1234], points[4000]} <= set(kept)
    assert kept == sorted(kept)


def test_values_that_are_no_numbers_are_left_out_of_a_chart() -> None:
    chart = line_chart("loss", {"a": [(1, 0.5), (2, math.nan), (3, 0.25)], EVIL: [(1, math.inf)]}, best=3)
    assert "nan" not in chart
    assert "inf" not in chart
    Page(chart)
    assert "no finite value" in line_chart("loss", {"a": [(1, math.nan)]})


def test_a_successor_gets_a_row_of_its_own_and_the_next_one_the_first_again() -> None:
    first, second, third = Span("rank 0", 0, 10), Span("rank 0", 8, 20), Span("rank 0", 15, 30)
    assert packed([third, first, second]) == [[first, third], [second]]
    assert packed([Span("x", 0, 9)] * 4) == [[Span("x", 0, 9)], [Span("x", 0, 9)] * 3]


def test_close_boxes_become_one_that_looks_like_the_worst() -> None:
    row = [Span("x", 0, 1), Span("x", 2, 3, kind="failed"), Span("x", 50, 51)]
    first, second = coalesced(row, 10)
    assert (first.kind, first.count, first.end) == ("failed", 2, 3)
    assert second == row[2]


def test_spans_tell_cold_starts_failures_retries_and_what_runs() -> None:
    cold = entry(1, at=100, more="Init Duration: 40.00 ms\t")
    killed, again = entry(2, at=200, more="Status: timeout\t"), entry(2, at=300)
    spans = spans_of([cold, killed, again, entry(3, at=400, ms=0)], now_ms=900)
    assert [span.kind for span in spans] == ["done", "failed", "retry", "running"]
    assert (spans[0].begin, spans[0].start, spans[0].end, spans[3].end) == (60, 100, 110, 900)


def test_a_timeline_is_bounded() -> None:
    entries = [entry(i, rank=i % 200, at=10 * i) for i in range(4_000)]
    picture = timeline(spans_of(entries, 0))
    assert len(picture) < MOST_BYTES
    assert "176 more lanes" in picture
    Page(picture)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (facts(), "No epoch has ended yet"),
        (facts(record(1), entries=[entry(1)]), "1 (best)"),
        (facts(record(1, train_loss=0.5), entries=[entry(1)]), "train_loss"),
        (facts(record(1), on="inline"), "An inline run writes no log"),
        (facts(record(1), outcome=failed(), entries=[entry(1)]), "mend it broke"),
        (facts(record(1), outcome=failed(), entries=[entry(1)]), "/aws/lambda/s-worker stream"),
        (facts(record(1), entries=[entry(1)], quorum=1), "3 rounds"),
        (facts(record(1), entries=[entry(1)], chaos="kill=0.1"), "Injected faults (kill=0.1)"),
        (facts(record(1), entries=[entry(1, at=9, left_at=12, why="time")]), "left after version 12: time"),
        (facts(record(1), entries=[entry(1, stall_s=0.3)]), "took 0.3 s"),
        (facts(outcome=Outcome(token="t", state="stopped", why="at its limit", ended_at=1.0)), "at its limit"),
    ],
)
def test_the_page_of_each_kind_of_run(made: Facts, said: str) -> None:
    found = Page(page(made))
    assert said in found.text
    assert "script" not in found.tags
    assert found.tags.count("svg") == found.tags.count("desc")


def test_a_look_at_a_run_that_has_ended_does_not_stretch_its_timeline() -> None:
    outcome = Outcome(token="t", state="done", ended_at=1009.0)
    entries = [entry(1, at=1_000_000, ms=8000), entry(2, at=90_000_000)]
    text = Page(page(facts(record(1), outcome=outcome, entries=entries))).text
    assert "1 invocations in 1 lanes over 8.0 seconds" in text


def test_texts_of_users_are_escaped() -> None:
    made = facts(
        record(1, **{EVIL: 1.0}),
        outcome=failed(EVIL),
        entries=[entry(1, left_at=1, why=EVIL)],
        run="r-1",
        job=EVIL,
        arguments={"model": {EVIL: EVIL}},
    )
    text = page(made)
    assert "<script" not in text
    assert EVIL in Page(text).text


def test_a_long_run_makes_no_long_page() -> None:
    records = [record(i, best=777) for i in range(1, 2001)]
    text = page(facts(*records, entries=[entry(i, rank=i % 64, at=9 * i, left_at=i) for i in range(2000)]))
    assert len(text) < MOST_BYTES
    assert "777 (best)" in text
    assert "1900 more are left out" in text


def test_commands_say_what_was_chosen() -> None:
    options = {"quorum": "1", "model.hidden": "64", "optimizer.betas": "[0.8, 0.9]"}
    given = {
        "options": options,
        "limits": Limits(max_cost_usd=2, max_rounds=9),
        "chaos": "kill=0.1",
        "topology": "auto",
    }
    place = ("examples/digits.py", "--on", "aws", "--stack", "mine")
    train, resume, export = commands_of(facts(**given, command=place).status, "aws")
    assert shlex.join(train) == (
        "estafeta train examples/digits.py --on aws --stack mine --workers 2 --topology auto --max-cost 2.0 "
        "--max-rounds 9 --chaos kill=0.1 -o quorum=1 -o model.hidden=64 -o 'optimizer.betas=[0.8, 0.9]'"
    )
    assert resume == ["estafeta", "resume", "r-1", "--on", "aws"]
    assert export == ["estafeta", "export", "r-1", "--on", "aws"]


def test_commands_of_a_run_that_python_started_or_that_is_a_fork() -> None:
    train, *_ = commands_of(facts(job="package.digits:job", options={"epochs": "3"}).status, "local")
    place = "package/digits.py:job --on local"
    assert shlex.join(train) == f"estafeta train {place} --workers 2 --topology merge -o epochs=3"
    fork, *_ = commands_of(facts(origin=Origin(run="r-0", token="t", version=6), options={"epochs": "9"}).status, "aws")
    assert shlex.join(fork) == "estafeta fork r-0 --from 6 --on aws -o epochs=9"


def test_commands_are_understood_by_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    limits = Limits(max_cost_usd=2, max_hours=0.5, max_rounds=9)
    spec = {"command": ("examples/digits.py", "--on", "local"), "options": {"epochs": "3"}, "limits": limits}
    origin = Origin(run="r-0", token="t", version=6)
    for status in (facts(**spec).status, facts(**spec, origin=origin).status):
        for _, name, *words in commands_of(status, "local"):
            command_line.commands[name].make_context(name, words)
