"""A run put into words: what it is, how it stands, how it ended, what it cost.

Pure: from a status or a summary to labelled lines. This module knows nothing of terminals.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from estafeta.client.backend import ROLES
from estafeta.client.summary import Summary
from estafeta.client.units import ago, clock, count, dollars, number, size
from estafeta.cost.cost import ASSUMED
from estafeta.errors import Command, UsageError
from estafeta.protocol.limits import HOUR_S
from estafeta.protocol.spec import Status

Lines = list[tuple[str, str]]
"""Label and text; the label is empty where a line goes on with what the line before began."""
BYTES_PER_PARAMETER = 4
"""Bytes of a parameter: it is a float32."""
PLACES = {"local": "local", "inline": "in this process", "aws": "AWS Lambda"}


def identity(status: Status, on: str) -> Lines:
    """Which run it is and what it runs on: known from the start."""
    spec = status.spec
    workers = f"{count(spec.workers, 'worker')} x {spec.functions['worker'].memory_mb} MB"
    origin = [("from", f"version {spec.origin.version} of {spec.origin.run}")] if spec.origin else []
    return [("run", f"{spec.run}   {PLACES[on]}, {workers}"), *origin]


def plan(status: Status) -> Lines:
    """What preparing found out: model, data, plan; nothing before that."""
    if status.parameters is None or status.steps_per_epoch is None:
        return []
    spec, steps = status.spec, count(status.steps_per_epoch, "step")
    how = f"batches of {spec.batch_size}, seed {spec.seed}, {status.topology} topology"
    return [
        ("model", f"{spec.job}   {status.parameters:,} parameters, {size(status.parameters * BYTES_PER_PARAMETER)}"),
        ("data", f"{status.train_rows:,} rows to train, {status.valid_rows:,} to validate"),
        ("plan", f"{count(spec.epochs, 'epoch')} of {steps}, {how}"),
    ]


def standing(status: Status, now: float) -> Lines:
    """How far a run is, and how it ended if it has."""
    outcome, spec = status.outcome, status.spec
    began = f"started {ago(now - spec.created_at)}"
    if outcome is None:
        return [("state", f"{status.state}, {progress(status)}, {began}")]
    took = clock(outcome.ended_at - spec.created_at)
    why = f": {outcome.why}" if outcome.why and outcome.failure is None else ""
    return [("state", f"{status.state}{why}; {progress(status)}, {began}, took {took}")]


def listed(label: str, texts: Iterable[str]) -> Lines:
    """Lines of which the first has the label."""
    return [("" if index else label, text) for index, text in enumerate(texts)]


def progress(status: Status) -> str:
    """Epochs and steps done."""
    steps = f"{status.version} of {status.total_steps} steps" if status.total_steps else "no steps yet"
    return f"epoch {status.epoch} of {status.spec.epochs}, {steps}"


def best(status: Status, summary: Summary) -> Lines:
    """The best epoch so far."""
    best = summary.best
    if best is None or best.value is None or not status.steps_per_epoch:
        return []
    return [("best", f"{best.monitor} {number(best.value)} (epoch {best.step // status.steps_per_epoch})")]


def late(summary: Summary) -> Lines:
    """How many rounds ranks have missed, where a quorum is enough; nothing if they have missed none."""
    missed = [f"rank {rank} missed {count(number, 'round')}" for rank, number in summary.missed.items()]
    return [("late", ", ".join(missed))] if missed else []


def bill(summary: Summary) -> Lines:
    """Invocations and what they cost, or would have cost on AWS Lambda; nothing where no log tells."""
    if not summary.invocations:
        return []
    invocations = ", ".join(f"{count} {role}" for role in ROLES if (count := summary.invocations.get(role)))
    retries = "1 retry" if summary.retries == 1 else f"{summary.retries} retries"
    where = "" if summary.on == "aws" else " if it had run on AWS"
    costs = summary.costs.to_dict()
    parts = ", ".join(
        f"{what} {dollars(costs[what])}" for what in ("compute", "requests", "efs", "logs", "storage") if costs[what]
    )
    return [
        ("work", f"{invocations} invocations, {retries}, {summary.billed_gb_seconds:,.1f} GB-seconds"),
        ("price", f"{dollars(summary.cost_usd)}{where}: {parts}"),
        ("", f"{summary.prices}{ASSUMED[summary.on]}"),
        *keeping(summary),
    ]


def keeping(summary: Summary) -> Lines:
    """What lies on the file system for a run, by the month, and what bringing its data in takes: beside its price."""
    kept, costs = summary.kept, summary.costs
    data = f" and {size(kept.data_bytes)} of data" if kept.data_bytes else ""
    lines = [("kept", f"{size(kept.run_bytes)}{data} on EFS, {dollars(costs.storage_month)} a month until removed")]
    if upload := costs.upload:
        lines.append(("", f"bringing the data in through S3 takes {dollars(upload)}, once"))
    return lines


def chaos(summary: Summary) -> Lines:
    """Which faults have been injected, and how often; nothing where none were asked for."""
    if not summary.chaos:
        return []
    injected = ", ".join(f"{number} {fault}" for fault, number in sorted(summary.chaos.injected.items()))
    return [("chaos", f"{injected or 'nothing'} injected ({summary.chaos.faults})")]


def ending(status: Status, summary: Summary, files: Mapping[str, Path]) -> Lines:
    """The last lines of a run that was followed to its end."""
    outcome = status.outcome
    why = outcome.why if outcome and outcome.failure is None else progress(status)
    written = listed("files", map(str, files.values()))
    return [
        (status.state, f"{clock(summary.train_s)}   {why}"),
        *best(status, summary),
        *late(summary),
        *bill(summary),
        *chaos(summary),
        *written,
        ("next", "   ".join(_next(status, exported=bool(files)))),
    ]


def _next(status: Status, *, exported: bool) -> list[str]:
    failure = status.outcome.failure if status.outcome else None
    has_weights = status.total_steps is not None
    is_hopeless = failure is not None and failure.exit_code == UsageError.exit_code and not has_weights
    verbs = [] if status.state == "done" or is_hopeless else ["resume"]
    verbs += ["status"] if exported else ["export"] if has_weights else []
    commands = [["estafeta", verb, status.spec.run] for verb in [*verbs, "clean"][:2]]
    if status.outcome and status.outcome.limited:
        commands[0] += _limit_flag(status)
    return [f"{Command(*words)}" for words in commands]


def _limit_flag(status: Status) -> list[str]:
    """The option that would let a run go on that has stopped at a limit: as much again of the one that is reached.

    What it has cost is not known to the last cent, so that limit is the one if no other is.
    """
    limits, outcome = status.limits, status.outcome
    if limits.max_rounds is not None and status.version >= limits.max_rounds:
        return ["--max-rounds", f"{_raised(limits.max_rounds, status.version)}"]
    hours = (outcome.ended_at - limits.since) / HOUR_S if outcome else 0.0
    if limits.max_cost_usd is None or (limits.max_hours is not None and hours >= limits.max_hours):
        return ["--max-hours", f"{limits.max_hours:.6g}"]
    return ["--max-cost", f"{_raised(limits.max_cost_usd, status.spent_usd):.6g}"]


def _raised(limit: float, used: float) -> float:
    """Twice a limit; if that much has been used already, the limit on top of it."""
    return 2 * limit if used < 2 * limit else used + limit


def limits(status: Status) -> Lines:
    """The limits of a run, if it has any."""
    known = status.limits
    parts = [dollars(known.max_cost_usd)] if known.max_cost_usd is not None else []
    parts += [f"{known.max_hours:.6g} hours"] if known.max_hours is not None else []
    parts += [count(known.max_rounds, "round")] if known.max_rounds is not None else []
    return [("limits", ", ".join(parts))] if parts else []
