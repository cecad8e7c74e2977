"""A run summed up in one record: what it was, how far it came, what it took and cost."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from estafeta.cost.cost import Bill, Kept
from estafeta.cost.meter import Traffic
from estafeta.job.job import On
from estafeta.protocol.spec import Choice, Failure, Limits, State


@dataclass(frozen=True)
class Best:
    """The best epoch so far: steps done at its end, name and value of the metric that decides; None: it has none."""

    step: int
    monitor: str
    value: float | None

    def to_dict(self) -> dict[str, Any]:
        """The step, and the metric by its name."""
        return {"step": self.step, self.monitor: self.value}


@dataclass(frozen=True)
class Chaos:
    """Faults that the local service was asked to inject, and how many of each kind it has injected so far."""

    faults: str
    injected: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything about a run at one moment; `to_dict` gives what `estafeta train --json` prints.

    Attributes:
        steps: Steps done.
        epochs: Epochs done.
        topology: Topology that the plan chose; before that, the one that was asked for.
        metrics: Metrics of the newest epoch by name.
        best: None before the first epoch has ended.
        missed: Rounds that were closed without a rank, by rank.
        why: Reason of the end, in a sentence; empty while the run goes on.
        weights_sha256: Digest of the final weights; None before there are any.
        invocations: Number of invocations by function, retries included.
        rounds_per_s: Rounds per second over the newest epochs, without the start; None before two have ended.
        legs: Number of invocations of ranks, without retries.
        retries: Number of invocations that repeated an event.
        chaos: Injected faults; None if none were asked for.
        billed_gb_seconds: Billed duration times memory size.
        prices: The price list, in words.
        traffic: File operations of the functions.
        limits: Limits that hold now.
        train_s: Seconds from the start of the run to its end, or to now.
        wall_s: Seconds that the command took; if there was no command, `train_s`.
        model_path: File that the final weights were exported to; None if they were not.
        error: Why the run failed; None if it did not.
    """

    run: str
    state: State
    on: On
    steps: int
    epochs: int
    workers: int
    topology: Choice
    metrics: Mapping[str, float]
    best: Best | None
    missed: Mapping[int, int]
    why: str
    weights_sha256: str | None
    invocations: Mapping[str, int]
    rounds_per_s: float | None
    legs: int
    retries: int
    chaos: Chaos | None
    billed_gb_seconds: float
    costs: Bill
    kept: Kept
    prices: str
    traffic: Traffic
    limits: Limits
    train_s: float
    wall_s: float
    model_path: Path | None
    error: Failure | None

    @property
    def rounds(self) -> int:
        """Train rounds done: each is one step."""
        return self.steps

    @property
    def cost_usd(self) -> float:
        """Dollars so far."""
        return self.costs.total

    def to_dict(self) -> dict[str, Any]:
        """The summary as a JSON-ready object."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **plain,
            "rounds": self.rounds,
            "metrics": dict(self.metrics),
            "best": self.best.to_dict() if self.best else {},
            "missed": dict(self.missed),
            "invocations": dict(self.invocations),
            "chaos": asdict(self.chaos) if self.chaos else None,
            "cost_usd": self.cost_usd,
            "costs": self.costs.to_dict(),
            "kept": {"run_bytes": self.kept.run_bytes, "data_bytes": self.kept.data_bytes},
            "traffic": asdict(self.traffic),
            "limits": self.limits.of_run(),
            "model_path": str(self.model_path.absolute()) if self.model_path else None,
            "error": self.error.model_dump(mode="json") if self.error else None,
        }
