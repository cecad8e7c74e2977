"""The table of epochs as text."""

from __future__ import annotations

import math

import pytest

from estafeta.cli.words.epochs import EpochTable
from estafeta.client.units import ago, clock, number
from estafeta.job.stopping import EpochRecord

METRICS = ["train_loss", "train_accuracy", "valid_loss", "valid_accuracy"]
STARTED_AT = 1000.0


def record(epoch: int, best: int, *, after_s: float, value: float = 0.5) -> EpochRecord:
    """An epoch of 6 steps; `best` is the best epoch so far."""
    return EpochRecord(
        token="t",
        epoch=epoch,
        version=6 * epoch,
        metrics=dict.fromkeys(METRICS, value),
        best_version=6 * best,
        best_value=value,
        stale_epochs=epoch - best,
        stop=None,
        ended_at=STARTED_AT + after_s,
    )


def table(width: int | None = None, monitor: str = "valid_loss") -> EpochTable:
    return EpochTable(METRICS, monitor, STARTED_AT, width)


def test_losses_come_first_and_the_columns_line_up() -> None:
    lines = table()
    row = lines.row(record(1, 1, after_s=3)).text
    assert lines.header.split() == [
        "epoch",
        "train_loss",
        "valid_loss",
        "train_accuracy",
        "valid_accuracy",
        "steps/s",
        "time",
    ]
    assert row.split() == ["1", "0.5000", "0.5000", "0.5000", "0.5000", "2.0", "00:03"]
    assert len(lines.header) == len(row) <= 80


def test_the_rate_is_that_since_the_epoch_before() -> None:
    lines = table()
    lines.row(record(1, 1, after_s=10))
    assert lines.row(record(2, 2, after_s=12)).text.split()[-2:] == ["3.0", "00:12"]


def test_a_clock_that_goes_back_gives_no_rate() -> None:
    lines = table()
    lines.row(record(1, 1, after_s=5))
    assert lines.row(record(2, 2, after_s=4)).text.split()[-2:] == ["0.5000", "00:04"]
    assert lines.row(record(3, 3, after_s=7)).text.split()[-2:] == ["2.0", "00:07"]


def test_epochs_of_the_run_that_this_one_was_forked_from_have_neither_rate_nor_time() -> None:
    lines = table()
    for epoch in (1, 2):
        assert lines.row(record(epoch, 1, after_s=epoch - 20)).text.split()[-1] == "0.5000"
    assert lines.row(record(3, 3, after_s=3)).text.split()[-2:] == ["2.0", "00:03"]


def test_the_best_value_is_found_in_the_line() -> None:
    lines = table(monitor="valid_accuracy")
    row = lines.row(record(1, 1, after_s=1, value=0.25))
    assert row.best is not None
    assert row.text[row.best].strip() == "0.2500"
    assert lines.header[row.best].strip() == "valid_accuracy"
    assert lines.row(record(2, 1, after_s=2)).best is None


def test_a_narrow_terminal_loses_training_metrics_first_and_never_the_monitored_one() -> None:
    assert "train_accuracy" not in table(70).header
    assert "valid_accuracy" in table(70).header
    assert "valid_accuracy" not in table(50).header
    assert table(10, monitor="valid_accuracy").header.split()[1:4] == ["train_loss", "valid_loss", "valid_accuracy"]


def test_a_metric_that_a_record_lacks_leaves_its_cell_empty() -> None:
    lines = EpochTable([*METRICS, "valid_other"], "valid_loss", STARTED_AT)
    assert len(lines.row(record(1, 1, after_s=1)).text) == len(lines.header)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (0.68214, "0.6821"),
        (-12.5, "-12.5000"),
        (1e-5, "1.00e-05"),
        (123456.0, "1.23e+05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_lengths_of_time() -> None:
    assert [clock(s) for s in (-1, 0.4, 61, 3599.6, 7322)] == ["00:00", "00:00", "01:01", "1:00:00", "2:02:02"]
    assert [ago(s) for s in (-3, 59, 60, 7200, 200_000)] == ["0 s ago", "59 s ago", "1 min ago", "2 h ago", "2 d ago"]
