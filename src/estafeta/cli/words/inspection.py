"""The inside of a run put into words and tables: contributions, versions, legs, what is next.

Pure: from an inspection to texts. Knows nothing of terminals.
"""

from collections.abc import Mapping
from typing import Any

from estafeta.cli.words.run import Lines, listed
from estafeta.client.units import count
from estafeta.functions.verbs.inspect import Contributed, InspectedVersion, Inspection

TOKEN = 13
"""Characters of a token that are shown: enough to find the request in the log."""
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Names of columns, and rows."""


def standing(found: Inspection) -> Lines:
    """Where the run stands, and what is next."""
    total = f" of {found.total_steps}" if found.total_steps else ""
    saved = "none" if found.version is None else f"version {found.version}"
    best = "" if found.best_version is None else f", best is version {found.best_version}"
    lines = [
        ("run", f"{found.run}   {found.topology}, {count(found.workers, 'worker')}, {found.state}"),
        ("steps", f"{found.reached}{total} reached, newest saved: {saved}, epoch {found.epoch}{best}"),
        *listed("next", [action(facts) for facts in found.next] or ["nothing"]),
    ]
    if found.resuming != found.next:
        lines += listed("resume", [action(facts) for facts in found.resuming] or ["nothing"])
    lines += listed("export", [f"{e.which}   version {e.version}, sha256 {e.weights_sha256}" for e in found.exports])
    if found.unpublished:
        lines.append(("files", f"{count(found.unpublished, 'file')} without a public name: drafts, or leftovers"))
    return lines


def contributions(found: Inspection) -> Table:
    """A row for each contribution; the ranks that are missing have a row, too."""
    rows: list[tuple[str, ...]] = []
    for round_ in found.rounds:
        entries = {entry.rank: _contribution(entry) for entry in round_.contributions}
        entries.update(dict.fromkeys(round_.missing, ("missing", "", "", "", "")))
        for index, rank in enumerate(sorted(entries)):
            rows.append((round_.round if index == 0 else "", str(rank), *entries[rank]))
    return ("round", "rank", "rows", "digest", "leg", "gen", "token"), rows


def versions(found: Inspection) -> Table:
    """A row for each file of a version."""
    rows: list[tuple[str, ...]] = []
    for version in found.versions:
        for index, part in enumerate(version.parts):
            state = ", ".join(f"{name} {digest}" for name, digest in part.state.items())
            name, mark = (str(version.version), _mark(version)) if index == 0 else ("", "")
            rows.append((name, mark, "all" if part.rank is None else f"rank {part.rank}", part.digest, state))
    return ("version", "", "part", "digest", "optimiser state"), rows


def legs(found: Inspection) -> Table:
    """A row for each resident rank."""
    rows: list[tuple[str, ...]] = []
    for leg in found.legs:
        mark = "has left" if leg.has_left else "ready" if leg.is_ready else "claimed"
        rows.append((str(leg.rank), str(leg.leg), str(leg.generation), mark, leg.holder[:TOKEN]))
    return ("rank", "leg", "gen", "mark", "token"), rows


def partials(found: Inspection) -> Table:
    """A row for each unfinished share."""
    rows: list[tuple[str, ...]] = [
        (p.round, str(p.rank), str(p.leg), str(p.rows), str(p.parts)) for p in found.partials
    ]
    return ("unfinished", "rank", "leg", "rows", "micro-batches"), rows


def action(facts: Mapping[str, Any]) -> str:
    """An action in a line: its kind, then its fields."""
    fields = [f"{name} {value}" for name, value in facts.items() if name not in ("action", "lead_s", "expires_at")]
    return "   ".join([facts["action"], ", ".join(fields)]).rstrip()


def _contribution(entry: Contributed) -> tuple[str, ...]:
    if entry.damage:
        return ("damaged", entry.damage, "", "", "")
    leg, generation = ("" if number is None else str(number) for number in (entry.leg, entry.generation))
    rows = "late" if entry.is_stand_in else str(entry.rows)
    return rows, entry.digest, leg, generation, entry.token[:TOKEN]


def _mark(version: InspectedVersion) -> str:
    return "" if version.is_complete and not version.is_best else "best" if version.is_complete else "incomplete"
