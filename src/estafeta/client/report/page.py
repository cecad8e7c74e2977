"""A run as one HTML page that needs no network and no script.

It turns what is known of a run into text, and reads nothing else. Invariants: jinja2 escapes whatever comes from users,
and the charts escape their own texts; the page's size is bounded, however long the run was.
"""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from estafeta.client.logbook import Entry
from estafeta.client.report.charts import line_chart
from estafeta.client.report.timeline import lane_of, spans_of, timeline
from estafeta.client.summary import Summary
from estafeta.client.units import clock, count, dollars, number
from estafeta.cost.cost import ASSUMED
from estafeta.job.stopping import EpochRecord
from estafeta.protocol.spec import Failure, Status

MOST_EPOCHS = 300
"""Number of rows in the table of epochs; of more, the page shows every second, third …"""
MOST_EVENTS = 100
"""Number of rows in the table of events, the first ones."""
MOST_TEXT = 20_000
"""Number of characters of a user's text, such as a traceback, from its end."""

COSTS = {
    "compute": "GB-seconds of the functions",
    "requests": "invocations",
    "efs": "access to the file system",
    "logs": "what CloudWatch takes in",
    "storage": "what lies on the file system, from beginning to end",
}

KEYS = {
    "cold": "starting cold",
    "done": "at work",
    "retry": "a retry",
    "running": "no end in the log",
    "failed": "killed, or ended with an error",
}
"""Meanings of the timeline's colours."""


FUNCTION_COLUMNS = ("function", "invocations", "cold starts", "failed", "seconds", "of them starting", "GB-seconds")


@dataclass(frozen=True)
class Facts:
    """The facts for a report.

    Attributes:
        status: Status of the run, with the records of all its epochs.
        summary: Summary from `Run.summary`.
        entries: Its invocations, in the order of their start; None for a run without logs.
        now: Time of the report, in seconds since 1970.
    """

    status: Status
    summary: Summary
    entries: Sequence[Entry] | None
    now: float


def page(facts: Facts) -> str:
    """The report as HTML."""
    return _TEMPLATES.get_or_select_template("page.html.j2").render(
        status=facts.status,
        spec=facts.status.spec,
        summary=facts.summary,
        entries=facts.entries,
        keys=KEYS,
        most_text=MOST_TEXT,
        most_events=MOST_EVENTS,
        **_heading(facts),
        **_metrics(facts.status),
        **_work(facts),
        **_settings(facts),
    )


def _heading(facts: Facts) -> dict[str, Any]:
    status, summary, spec = facts.status, facts.summary, facts.status.spec
    outcome = status.outcome
    failure = outcome.failure if outcome else None
    why = f": {outcome.why}" if outcome and outcome.why and not failure else ""
    pace = summary.rounds_per_s
    figures = {
        "epochs": f"{status.epoch} of {spec.epochs}",
        "rounds": f"{status.version} of {status.total_steps or '?'}",
        "time": clock(summary.train_s),
        "rounds/s": f"{pace:g}" if pace is not None else "",
        "workers": str(spec.workers),
        "topology": summary.topology,
        "invocations": str(sum(summary.invocations.values())) if summary.invocations else "",
        "retries": str(summary.retries) if summary.invocations else "",
        "price": dollars(summary.cost_usd) if summary.invocations else "",
    }
    now = "" if outcome else f", looked at {_moment(facts.now)}"
    return {
        "subtitle": f"{spec.job}, {_moment(spec.created_at)}{now}{why}",
        "failure": failure,
        "failure_facts": _failure(failure) if failure else {},
        "figures": figures,
        "assumed": ASSUMED[summary.on],
        "cost_rows": _costs(summary) if summary.invocations else [],
    }


def _failure(failure: Failure) -> dict[str, str]:
    return {
        "what to do": failure.hint,
        "reason": failure.reason,
        "function": failure.function,
        "rank": "" if failure.rank is None else str(failure.rank),
        "round": failure.round or "",
        "request": failure.request_id,
        "log": " ".join(filter(None, (failure.log_group, failure.log_stream))),
    }


def _metrics(status: Status) -> dict[str, Any]:
    records = status.epochs
    if not records:
        return {}
    last, value = records[-1], records[-1].best_value
    is_known = value is not None and math.isfinite(value)
    best = next((r.epoch for r in records if r.version == last.best_version), None) if is_known else None
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in sorted(names, key=lambda name: (not name.endswith("loss"), names.index(name))):
        points = [(float(r.epoch), r.metrics[name]) for r in records if name in r.metrics]
        groups.setdefault(name.removeprefix("train_").removeprefix("valid_"), {})[name] = points
    monitor = status.spec.early_stopping.monitor
    rows = [
        [
            f"{r.epoch}{' (best)' if r.epoch == best else ''}",
            str(r.version),
            *(number(r.metrics[name]) if name in r.metrics else "" for name in names),
            clock(r.ended_at - status.spec.created_at),
        ]
        for r in _every(records, best)
    ]
    return {
        "best": f"Best epoch: {best}, {monitor} {number(value)}." if best and value is not None else "",
        "charts": [Markup(line_chart(title, lines, best)) for title, lines in groups.items()],
        "epoch_columns": ("epoch", "rounds", *names, "time"),
        "epoch_rows": rows,
    }


def _every(records: Sequence[EpochRecord], best: int | None) -> list[EpochRecord]:
    """The last epoch, the best, and as many of the rest as fit."""
    step = math.ceil(len(records) / MOST_EPOCHS)
    return [r for i, r in enumerate(records) if (len(records) - 1 - i) % step == 0 or r.epoch == best]


def _work(facts: Facts) -> dict[str, Any]:
    if not facts.entries:
        return {}
    # A look at a run is an invocation, too, maybe days after the run's end: the page counts it, but does not draw it.
    # An earlier invocation without a REPORT line was cut off: its box ends with the run.
    ended_at = 1000 * (facts.status.outcome.ended_at if facts.status.outcome else facts.now)
    drawn = [entry for entry in facts.entries if entry.started_at <= ended_at]
    return {
        "timeline": Markup(timeline(spans_of(drawn, ended_at))),
        "function_columns": FUNCTION_COLUMNS,
        "function_rows": _functions(facts.entries),
        "events": list(_events(facts.entries)),
        "missed": [(f"rank {rank}", count(rounds, "round")) for rank, rounds in facts.summary.missed.items() if rounds],
    }


def _functions(entries: Sequence[Entry]) -> list[list[str]]:
    rows = []
    for role in dict.fromkeys(entry.role for entry in entries):
        own = [entry for entry in entries if entry.role == role]
        rows.append(
            [
                role,
                str(len(own)),
                str(sum(entry.init_ms > 0 for entry in own)),
                str(sum(e.has_failed for e in own)),
                f"{sum(entry.duration_ms + entry.init_ms for entry in own) / 1000:,.1f}",
                f"{sum(entry.init_ms for entry in own) / 1000:,.1f}",
                f"{sum(entry.gb_seconds for entry in own):,.1f}",
            ]
        )
    return rows


def _events(entries: Sequence[Entry]) -> Iterable[tuple[str, str, str]]:
    """Failures, retries, handovers, stalls and calls for lost ranks, in the order of the invocations."""
    began, seen = min(entry.started_at - entry.init_ms for entry in entries), set()
    for entry in entries:
        after, leg = f"{(entry.started_at - began) / 1000:.2f} s", entry.note.get("leg")
        who = lane_of(entry) + (f" leg {leg}" if leg is not None else "")
        if entry.request_id in seen:
            yield after, who, "a retry of the same event"
        seen.add(entry.request_id)
        for note in entry.notes:
            if "left_at" in note:
                yield after, who, f"left after version {note['left_at']}: {note.get('why', '')}"
            if "stall_s" in note:
                yield after, who, f"the first round after a handover took {note['stall_s']} s, with the change"
            if "sent_for" in note:
                yield after, who, f"sent for rank {note['sent_for']}, missing in {note.get('missing_in', '')}"
        if entry.has_failed:
            yield after, who, "killed, or ended with an error"


def _costs(summary: Summary) -> list[list[str]]:
    costs, total = summary.costs.to_dict(), summary.cost_usd
    rows = [
        [what, text, dollars(costs[what]), f"{costs[what] / total:.0%}" if total else ""]
        for what, text in COSTS.items()
    ]
    return [*rows, ["total", "", dollars(total), ""]]


def _settings(facts: Facts) -> dict[str, Any]:
    status, spec = facts.status, facts.status.spec
    settings = {
        "job": spec.job,
        "on": facts.summary.on,
        "estafeta": spec.estafeta,
        "seed": str(spec.seed),
        "optimizer": json.dumps(spec.optimizer),
        "arguments": json.dumps(spec.arguments) if spec.arguments else "",
        "batch size": f"{spec.batch_size}, at most {spec.micro_batch_size} rows at a time",
        "rows": f"{status.train_rows:,} to train, {status.valid_rows or 0:,} to validate" if status.train_rows else "",
        "parameters": f"{status.parameters:,}" if status.parameters else "",
        "rounds an epoch": str(status.steps_per_epoch or ""),
        "drop last": str(spec.drop_last).lower(),
        "validation": f"{spec.validation:g}",
        "window": f"{spec.window_mb} MiB",
        "quorum": str(spec.quorum or ""),
        "rounds an invocation": str(spec.rounds_per_invocation or ""),
        "limits": json.dumps(limits) if (limits := facts.summary.limits.of_run()) else "",
        "chaos": spec.chaos,
        "from": f"version {spec.origin.version} of {spec.origin.run}" if spec.origin else "",
    }
    commands = commands_of(status, facts.summary.on)
    return {
        "settings": settings,
        "limit_rows": [(role, f.name, f"{f.memory_mb} MB", f"{f.timeout_s} s") for role, f in spec.functions.items()],
        "commands": "\n".join(shlex.join(words) for words in commands),
    }


def commands_of(status: Status, on: str) -> list[list[str]]:
    """Return the commands that start such a run again, let this one go on, and export it, as words.

    The first has what the run was started with, as its spec keeps it. If a Python program started the run, the command
    names the job's module as a file.
    """
    spec = status.spec
    where = ["--on", "aws"] if on == "aws" else []
    if spec.origin:
        first = ["estafeta", "fork", spec.origin.run, "--from", str(spec.origin.version), *where]
    else:
        module, _, attribute = spec.job.partition(":")
        told = spec.command or [f"{module.replace('.', '/')}.py:{attribute}", "--on", on]
        first = ["estafeta", "train", *told, "--workers", str(spec.workers), "--topology", spec.topology]
        limits = spec.limits.model_dump(include={"max_cost_usd", "max_hours", "max_rounds"}, exclude_none=True)
        for name, limit in limits.items():
            first += [f"--{name.removesuffix('_usd').replace('_', '-')}", str(limit)]
        first += ["--chaos", spec.chaos] if spec.chaos else []
    first += [word for name, text in spec.options.items() for word in ("-o", f"{name}={text}")]
    verbs = ["export"] if status.state == "done" else ["resume", "export"]
    return [first, *(["estafeta", verb, spec.run, *where] for verb in verbs)]


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


_TEMPLATES = Environment(
    loader=PackageLoader("estafeta.client.report", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["dollars"] = dollars
