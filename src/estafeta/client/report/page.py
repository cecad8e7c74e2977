"""A run as one HTML page that needs no network and no script.

Pure: from what is known of a run to text. Invariants: whatever comes from users is escaped where it enters the page
(`escape`, in `_table`, `_facts` and the charts); the page's size is bounded, however long the run was.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

from estafeta.client.logbook import Entry
from estafeta.client.report.charts import line_chart
from estafeta.client.report.timeline import lane_of, spans_of, timeline
from estafeta.client.summary import Summary
from estafeta.client.units import clock, count, dollars, number
from estafeta.cost.cost import ASSUMED
from estafeta.job.stopping import EpochRecord
from estafeta.protocol.spec import Failure, Status

MOST_EPOCHS = 300
"""Rows of the table of epochs; of more, every second, third … is shown."""

MOST_EVENTS = 100
"""Rows of the table of what happened, the first ones."""

MOST_TEXT = 20_000
"""Characters of a text of the user's, such as a traceback, from its end."""

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
    "retry": "a further attempt",
    "running": "no end in the log",
    "failed": "killed, or ended with an error",
}
"""What the colours of the timeline mean."""


@dataclass(frozen=True)
class Facts:
    """What a report is made of.

    Attributes:
        status: The run, with the records of all its epochs.
        summary: As `Run.summary` has it.
        entries: Its invocations, in the order of their start; None where no log is written.
        now: When it was looked at, in seconds since 1970.
    """

    status: Status
    summary: Summary
    entries: Sequence[Entry] | None
    now: float


def page(facts: Facts) -> str:
    """The report as HTML."""
    style = files("estafeta.client.report").joinpath("style.css").read_text(encoding="utf-8")
    run = escape(facts.status.spec.run)
    parts = [_heading(facts), _metrics(facts.status), _work(facts), _costs(facts.summary), _settings(facts)]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{run}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _heading(facts: Facts) -> str:
    status, summary, spec = facts.status, facts.summary, facts.status.spec
    outcome = status.outcome
    failure = outcome.failure if outcome else None
    why = outcome.why if outcome and not failure else ""
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
    cells = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items() if value)
    price = f"Price: {summary.prices}{ASSUMED[summary.on]}." if summary.invocations else ""
    sha = f"<p>weights_sha256 <code>{summary.weights_sha256}</code></p>" if summary.weights_sha256 else ""
    said = f"{spec.job}, {_moment(spec.created_at)}" + ("" if outcome else f", looked at {_moment(facts.now)}")
    return (
        f'<h1>{escape(spec.run)} <span class="state {status.state}">{status.state}</span></h1>'
        f"<p>{escape(said)}{escape(f': {why}' if why else '')}</p>{_failure(failure)}"
        f'<dl class="figures">{cells}</dl><p>{escape(price)}</p>{sha}'
    )


def _failure(failure: Failure | None) -> str:
    if failure is None:
        return ""
    told = {
        "what to do": failure.hint,
        "reason": failure.reason,
        "function": failure.function,
        "rank": "" if failure.rank is None else str(failure.rank),
        "round": failure.round or "",
        "request": failure.request_id,
        "log": " ".join(filter(None, (failure.log_group, failure.log_stream))),
    }
    trace = f"<details><summary>Traceback</summary><pre>{escape(failure.traceback[-MOST_TEXT:])}</pre></details>"
    message = escape(failure.message[-MOST_TEXT:])
    return (
        f'<section class="failure"><p><b>{message}</b></p>{_facts(told)}{trace if failure.traceback else ""}</section>'
    )


def _metrics(status: Status) -> str:
    records = status.epochs
    if not records:
        return "<h2>Metrics</h2><p>No epoch has ended yet.</p>"
    last, value = records[-1], records[-1].best_value
    is_known = value is not None and math.isfinite(value)
    best = next((r.epoch for r in records if r.version == last.best_version), None) if is_known else None
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in sorted(names, key=lambda name: (not name.endswith("loss"), names.index(name))):
        points = [(float(r.epoch), r.metrics[name]) for r in records if name in r.metrics]
        groups.setdefault(name.removeprefix("train_").removeprefix("valid_"), {})[name] = points
    charts = "".join(line_chart(title, lines, best) for title, lines in groups.items())
    monitor = status.spec.early_stopping.monitor
    told = f"Best epoch: {best}, {escape(monitor)} {number(value)}." if best and value is not None else ""
    shown = _every(records, best)
    rows = [
        [
            f"{r.epoch}{' (best)' if r.epoch == best else ''}",
            str(r.version),
            *(number(r.metrics[name]) if name in r.metrics else "" for name in names),
            clock(r.ended_at - status.spec.created_at),
        ]
        for r in shown
    ]
    note = f"<p>{len(shown)} of {len(records)} epochs are shown.</p>" if len(shown) < len(records) else ""
    table = _table("Epochs", ("epoch", "rounds", *names, "time"), rows)
    return f'<h2>Metrics</h2><p>{told}</p><div class="charts">{charts}</div>{table}{note}'


def _every(records: Sequence[EpochRecord], best: int | None) -> list[EpochRecord]:
    """The last epoch, the best, and of the rest as many as fit."""
    step = math.ceil(len(records) / MOST_EPOCHS)
    return [r for i, r in enumerate(records) if (len(records) - 1 - i) % step == 0 or r.epoch == best]


def _work(facts: Facts) -> str:
    head = "<h2>Where the time went</h2>"
    if facts.entries is None:
        return f"{head}<p>An inline run writes no log: there are no invocations to show.</p>"
    if not facts.entries:
        return f"{head}<p>The functions' logs have no invocation of this run.</p>"
    # Looking at a run that has ended is an invocation, too, maybe days later: it is counted, but not drawn. One of
    # before the end has no REPORT line only if it was cut off: it is not drawn beyond the end.
    ended_at = 1000 * (facts.status.outcome.ended_at if facts.status.outcome else facts.now)
    picture = timeline(spans_of([entry for entry in facts.entries if entry.started_at <= ended_at], ended_at))
    keys = "".join(f'<span><i class="{kind}"></i>{text}</span>' for kind, text in KEYS.items())
    events = list(_events(facts.entries))
    more = f"<p>{len(events) - MOST_EVENTS} more are left out.</p>" if len(events) > MOST_EVENTS else ""
    happened = (
        _table("What happened", ("invocation began at", "who", "what"), events[:MOST_EVENTS]) + more if events else ""
    )
    missed = [[f"rank {rank}", count(rounds, "round")] for rank, rounds in facts.summary.missed.items() if rounds]
    late = _table("Rounds closed without a rank, by the quorum", ("who", "missed"), missed) if missed else ""
    chaos = facts.summary.chaos
    injected = [[kind, str(times)] for kind, times in sorted(chaos.injected.items())] if chaos else []
    faults = _table(f"Injected faults ({chaos.faults})", ("fault", "times"), injected) if chaos else ""
    return f'{head}<p class="keys">{keys}</p>{picture}{_functions(facts.entries)}{happened}{late}{faults}'


def _functions(entries: Sequence[Entry]) -> str:
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
    columns = ("function", "invocations", "cold starts", "failed", "seconds", "of them starting", "GB-seconds")
    return _table("Functions", columns, rows)


def _events(entries: Sequence[Entry]) -> Iterable[tuple[str, str, str]]:
    """Failures, further attempts, handovers, stalls and calls for lost ranks, in the order of the invocations."""
    began, seen = min(entry.started_at - entry.init_ms for entry in entries), set()
    for entry in entries:
        after, leg = f"{(entry.started_at - began) / 1000:.2f} s", entry.note.get("leg")
        who = lane_of(entry) + (f" leg {leg}" if leg is not None else "")
        if entry.request_id in seen:
            yield after, who, "a further attempt at the same event"
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


def _costs(summary: Summary) -> str:
    if not summary.invocations:
        return ""
    costs, total = summary.costs.to_dict(), summary.cost_usd
    rows = [
        [what, text, dollars(costs[what]), f"{costs[what] / total:.0%}" if total else ""]
        for what, text in COSTS.items()
    ]
    rows.append(["total", "", dollars(total), ""])
    where = "" if summary.on == "aws" else " (if it had run on AWS)"
    beside = f"Not in it: keeping its files, {dollars(costs['storage_month'])} a month until removed"
    upload = f"; bringing its data in once, {dollars(costs['upload'])}" if costs["upload"] else ""
    return (
        f"<h2>Where the money went</h2>{_table(f'Cost{where}', ('part', 'for', 'dollars', 'share'), rows)}"
        f"<p>{beside}{upload}.</p>"
    )


def _settings(facts: Facts) -> str:
    status, spec = facts.status, facts.status.spec
    told = {
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
    functions = [[role, f.name, f"{f.memory_mb} MB", f"{f.timeout_s} s"] for role, f in spec.functions.items()]
    commands = "\n".join(shlex.join(words) for words in commands_of(status, facts.summary.on))
    return (
        f"<h2>How it was run</h2>{_facts(told)}"
        f"{_table('Functions and their limits', ('role', 'function', 'memory', 'time limit'), functions)}"
        f"<h3>Commands</h3><pre>{escape(commands)}</pre>"
    )


def commands_of(status: Status, on: str) -> list[list[str]]:
    """The commands that start such a run again, let this one go on, and export it, as words.

    The first has the numbers and arguments that `-o` changes. Schedules, pairs of numbers such as `betas`, clipping and
    early stopping are taken from the job's file, as are stacks on AWS from the surroundings.
    """
    spec = status.spec
    place = ["--on", on] if on != "local" else []
    options: dict[str, Any] = {
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "micro_batch_size": spec.micro_batch_size,
        "drop_last": spec.drop_last,
        "validation": spec.validation,
        "seed": spec.seed,
        "window_mb": spec.window_mb,
        "quorum": spec.quorum,
        "rounds_per_invocation": spec.rounds_per_invocation,
    }
    for part, arguments in [("optimizer", spec.optimizer), *spec.arguments.items()]:
        plain = {k: v for k, v in arguments.items() if part != "optimizer" or isinstance(v, int | float)}
        options |= {f"{part}.{name}": value for name, value in plain.items()}
    for role, function in spec.functions.items():
        options |= {f"{role}.memory_mb": function.memory_mb, f"{role}.timeout_s": function.timeout_s}
    module, _, attribute = spec.job.partition(":")
    train = ["estafeta", "train", f"{module.replace('.', '/')}.py:{attribute}", "--workers", str(spec.workers)]
    train += ["--topology", status.topology or spec.topology, *place]
    for name, value in options.items():
        if value is not None:
            train += ["-o", f"{name}={json.dumps(value)}"]
    if spec.chaos:
        train += ["--chaos", spec.chaos]
    where = ["--on", "aws"] if on == "aws" else []
    verbs = ["export"] if status.state == "done" else ["resume", "export"]
    return [train, *(["estafeta", verb, spec.run, *where] for verb in verbs)]


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="table"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _facts(told: Mapping[str, str]) -> str:
    """Names and values; without those that are empty."""
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v[:MOST_TEXT])}</dd>' for k, v in told.items() if v)}</dl>"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
