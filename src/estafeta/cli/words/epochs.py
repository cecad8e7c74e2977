"""The table of epochs as text: which columns, how wide, how a number is written.

Pure: knows nothing of terminals or colours. Invariant: a row depends on the run's records alone, so whoever follows a
run and whoever looks at it later see the same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from estafeta.client.units import clock, number
from estafeta.job.stopping import EpochRecord

NARROWEST = 10
GAP = "  "
FIXED = {"epoch": 5, "steps/s": 7, "time": 7}
"""Columns that are no metrics, and their widths."""


@dataclass(frozen=True)
class Row:
    """One line of the table; `best` is the place of the monitored metric in it, if this epoch is the best so far."""

    text: str
    best: slice | None = None


class EpochTable:
    """Makes the lines of a run's table, one after the other; `started_at` is in seconds since 1970.

    A line has at most `width` characters; None: no limit. Metrics of the training rows, then others, are left out to
    keep it; the losses and the metric `monitor`, which decides which epoch is the best, never are.
    """

    def __init__(self, metrics: Sequence[str], monitor: str, started_at: float, width: int | None = None) -> None:
        self._metrics = _fitting(_ordered(metrics), monitor, width)
        self._monitor = monitor
        self._started_at = started_at
        self._last_version, self._last_ended_at = 0, started_at

    @property
    def header(self) -> str:
        """The names of the columns."""
        return GAP.join(f"{name:>{_width(name)}}" for name in _columns(self._metrics))

    def row(self, record: EpochRecord) -> Row:
        """The line of an epoch; the rate is that since the epoch before, or since the start of the run.

        An epoch that ended before the start was done by the run that this one was forked from: it has neither rate nor
        time. A clock that went back has no rate either.
        """
        passed_s = record.ended_at - self._last_ended_at
        rate = (record.version - self._last_version) / passed_s if passed_s > 0 else None
        is_own = record.ended_at >= self._started_at
        self._last_version, self._last_ended_at = record.version, max(record.ended_at, self._started_at)
        cells = {
            "epoch": str(record.epoch),
            **{name: number(record.metrics[name]) for name in self._metrics if name in record.metrics},
            "steps/s": "" if rate is None else f"{rate:.1f}",
            "time": clock(record.ended_at - self._started_at) if is_own else "",
        }
        text, best = "", None
        for name in _columns(self._metrics):
            cell = f"{cells.get(name, ''):>{_width(name)}}"
            text += GAP if text else ""
            if name == self._monitor and record.best_version == record.version:
                best = slice(len(text), len(text) + len(cell))
            text += cell
        return Row(text, best)


def _columns(metrics: Sequence[str]) -> tuple[str, ...]:
    return ("epoch", *metrics, "steps/s", "time")


def _width(name: str) -> int:
    return FIXED.get(name) or max(NARROWEST, len(name))


def _ordered(metrics: Sequence[str]) -> list[str]:
    """The losses first; then, for each metric, that of the training rows and that of the validation rows."""
    losses = [name for name in ("train_loss", "valid_loss") if name in metrics]
    rest = [name for name in metrics if name not in losses]
    plain = list(dict.fromkeys(name.partition("_")[2] for name in rest))
    return losses + sorted(rest, key=lambda name: (plain.index(name.partition("_")[2]), name))


def _fitting(metrics: list[str], monitor: str, width: int | None) -> list[str]:
    spare = [name for name in reversed(metrics) if name not in ("train_loss", "valid_loss", monitor)]
    spare.sort(key=lambda name: not name.startswith("train_"))
    kept = list(metrics)
    while width and spare and sum(_width(name) + len(GAP) for name in _columns(kept)) - len(GAP) > width:
        kept.remove(spare.pop(0))
    return kept
