"""The record of an epoch, and its verdict: whether this is the best version, and whether training stops here.

A record is a pure function of the metrics and of the record before. So every rank that computes it gets the same one.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass

from estafeta.errors import UsageError
from estafeta.job.checks import CONFIG, explained

Mode = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class EarlyStopping:
    """When to stop before the last epoch, and which epoch counts as the best.

    Attributes:
        monitor: Name of a metric as in the table of epochs, such as `valid_loss` or `valid_accuracy`.
        mode: Whether less (`min`) or more (`max`) is better; None: `min` for a loss, `max` for all else.
        patience: Stop after this many epochs in a row without improvement; None: never for that reason.
        min_delta: Least difference by which a value must be better to count as an improvement.
        target: Stop as soon as the metric is at least as good as this; None: never for that reason.

    Raises:
        UsageError: A value is out of its range, or of another kind.
    """

    monitor: str = "valid_loss"
    mode: Mode | None = None
    patience: Annotated[int, Ge(1)] | None = None
    min_delta: Annotated[float, Ge(0)] = 0.0
    target: float | None = None
    _explained = explained

    def better(self, value: float, than: float) -> bool:
        """Return whether `value` improves on `than`; NaN improves on nothing."""
        return value < than - self.min_delta if self._less_is_better else value > than + self.min_delta

    def reached(self, value: float) -> bool:
        """Return whether `value` is as good as the target."""
        if self.target is None:
            return False
        return value <= self.target if self._less_is_better else value >= self.target

    @property
    def _less_is_better(self) -> bool:
        return (self.mode or ("min" if self.monitor.endswith("loss") else "max")) == "min"


class EpochRecord(BaseModel):
    """The facts about an epoch that has ended; published once as `epochs/0003.json`.

    Attributes:
        epoch: Number of the epoch, from 1.
        version: Weights version at the end of the epoch (steps done).
        metrics: Mean over the rows, by name: `train_loss` (while the weights changed), `valid_loss` …
        best_version: Weights version of the best epoch so far.
        best_value: Monitored metric of that epoch; None while there is no number yet.
        stale_epochs: Epochs since the best one.
        stop: Reason why training ends here, or None.
        missed: Rounds that were closed without a rank since the beginning of the run, by rank.
        ended_at: Seconds since 1970 at the end of the epoch. No rank decides anything by it.
        spent_usd: Dollars that the run had cost, as its functions know it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    format: Literal["estafeta-epoch/1"] = "estafeta-epoch/1"
    token: str
    epoch: int
    version: int
    metrics: dict[str, float]
    best_version: int
    best_value: float | None
    stale_epochs: int
    stop: str | None
    missed: dict[int, int] = {}
    ended_at: float
    spent_usd: float = 0.0

    def to_json(self) -> bytes:
        """Return the record as UTF-8 text, one line; NaN and infinities are written as such."""
        return self.model_dump_json().encode() + b"\n"


def judge(
    rule: EarlyStopping,
    previous: EpochRecord | None,
    *,
    epoch: int,
    version: int,
    metrics: Mapping[str, float],
    missed: Mapping[int, int] = MappingProxyType({}),
    token: str,
    now: float,
    spent_usd: float = 0.0,
) -> EpochRecord:
    """Return the record of an epoch, from its metrics and the record before.

    Raises:
        UsageError: The monitored metric is not among the metrics.
    """
    if rule.monitor not in metrics:
        raise UsageError(
            f"early_stopping.monitor is {rule.monitor!r}, but the metrics are {', '.join(sorted(metrics))}",
            hint="name one of these, or define the metric in the job",
        )
    value = metrics[rule.monitor]
    best = previous.best_value if previous else None
    improved = previous is None or (not math.isnan(value) if best is None else rule.better(value, best))
    stale = 0 if improved or previous is None else previous.stale_epochs + 1
    if rule.reached(value):
        stop = f"{rule.monitor} {value:.6g} has reached the target {rule.target:.6g}"
    elif rule.patience is not None and stale >= rule.patience:
        stop = f"{rule.monitor} has not improved for {stale} epochs"
    else:
        stop = None
    return EpochRecord(
        token=token,
        epoch=epoch,
        version=version,
        metrics=dict(metrics),
        best_version=version if improved or previous is None else previous.best_version,
        best_value=best if not improved else None if math.isnan(value) else value,
        stale_epochs=stale,
        stop=stop,
        missed=dict(missed),
        ended_at=now,
        spent_usd=spent_usd,
    )
