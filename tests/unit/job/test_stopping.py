"""The verdict of an epoch. `tests/core/test_stopping.py` has whole runs that it stops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta.errors import UsageError
from estafeta.job.stopping import EarlyStopping, EpochRecord, Mode, judge

NAN = math.nan
LOSS, SCORE = "valid_loss", "valid_accuracy"
VALUES = st.floats(allow_nan=True, allow_infinity=True)


def judged(rule: EarlyStopping, values: list[float]) -> list[EpochRecord]:
    """Return the records of epochs of ten steps, up to the first that stops."""
    records: list[EpochRecord] = []
    for epoch, value in enumerate(values, start=1):
        previous = records[-1] if records else None
        metrics = {rule.monitor: value, "train_loss": 0.0}
        record = judge(rule, previous, epoch=epoch, version=10 * epoch, metrics=metrics, token="t", now=1.0)
        records.append(record)
        if record.stop:
            break
    return records


@pytest.mark.parametrize(
    ("monitor", "mode", "value", "than", "better"),
    [
        (LOSS, None, 1.0, 2.0, True),
        (LOSS, None, 2.0, 2.0, False),
        (LOSS, None, 3.0, 2.0, False),
        (LOSS, "max", 3.0, 2.0, True),
        (SCORE, None, 3.0, 2.0, True),
        (SCORE, None, 1.0, 2.0, False),
        (SCORE, "min", 1.0, 2.0, True),
        (LOSS, None, NAN, 2.0, False),
        (SCORE, None, NAN, 2.0, False),
        (LOSS, None, -math.inf, 2.0, True),
    ],
)
def test_values_that_count_as_better(monitor: str, mode: Mode | None, value: float, than: float, better: bool) -> None:
    assert EarlyStopping(monitor=monitor, mode=mode).better(value, than) is better


def test_a_small_improvement_is_none() -> None:
    rule = EarlyStopping(min_delta=0.1)
    assert not rule.better(0.95, 1.0)
    assert rule.better(0.85, 1.0)
    rule = EarlyStopping(monitor=SCORE, min_delta=0.1)
    assert not rule.better(1.05, 1.0)
    assert rule.better(1.15, 1.0)


@pytest.mark.parametrize("min_delta", [0.0, 0.5])
def test_a_target_is_reached_at_its_value(min_delta: float) -> None:
    loss = EarlyStopping(target=1.0, min_delta=min_delta)
    assert [loss.reached(value) for value in (1.1, 1.0, 0.9, NAN)] == [False, True, True, False]
    score = EarlyStopping(monitor=SCORE, target=1.0, min_delta=min_delta)
    assert [score.reached(value) for value in (1.1, 1.0, 0.9, NAN)] == [True, True, False, False]
    assert not EarlyStopping().reached(-math.inf)


def test_the_best_epoch_is_remembered() -> None:
    records = judged(EarlyStopping(), [3.0, 1.0, NAN, 2.0])
    assert [record.best_version for record in records] == [10, 20, 20, 20]
    assert [record.best_value for record in records] == [3.0, 1.0, 1.0, 1.0]
    assert [record.stale_epochs for record in records] == [0, 0, 1, 2]


def test_the_first_number_is_the_best_so_far() -> None:
    records = judged(EarlyStopping(), [NAN, NAN, 5.0])
    assert [record.best_version for record in records] == [10, 10, 30]
    assert [record.best_value for record in records] == [None, None, 5.0]


def test_the_monitor_must_be_a_metric() -> None:
    with pytest.raises(UsageError, match=r"valid_f1.*but the metrics are train_loss, valid_loss") as caught:
        judge(
            EarlyStopping(monitor="valid_f1"),
            None,
            epoch=1,
            version=1,
            metrics={"valid_loss": 1.0, "train_loss": 1.0},
            token="t",
            now=0.0,
        )
    assert caught.value.hint


@given(
    values=st.lists(VALUES, min_size=1, max_size=8), patience=st.integers(1, 3), mode=st.sampled_from(["min", "max"])
)
def test_the_verdict_agrees_with_the_history(values: list[float], patience: int, mode: Mode) -> None:
    """The test computes the verdict over the whole history instead of from one record to the next."""
    records = judged(EarlyStopping(mode=mode, patience=patience), values)
    for count, record in enumerate(records, start=1):
        sign = 1 if mode == "min" else -1
        numbers = [
            (sign * value, epoch) for epoch, value in enumerate(values[:count], start=1) if not math.isnan(value)
        ]
        value, best = min(numbers) if numbers else (None, 1)
        assert record.best_version == 10 * best
        assert record.best_value == (None if value is None else sign * value)
        assert record.stale_epochs == count - best
        assert (record.stop is not None) == (record.stale_epochs >= patience)


@given(value=VALUES)
def test_a_record_survives_its_file(value: float) -> None:
    (record,) = judged(EarlyStopping(), [value])
    again = EpochRecord.model_validate_json(record.to_json())
    assert repr(again) == repr(record)  # equal, with NaN for NaN
    assert record.to_json().count(b"\n") == 1


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"min_delta": -1.0}])
def test_rules_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=rf"EarlyStopping\.{next(iter(wrong))} is .*; it must be a .*number in \["):
        EarlyStopping(**wrong)


@pytest.mark.parametrize("wrong", [{"mode": "less"}, {"patience": "soon"}, {"metric": "loss"}])
def test_rules_that_are_no_rules(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EarlyStopping(**wrong)
