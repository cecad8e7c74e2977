"""A run's log as lines: which function, rank and round wrote what.

Pure, but for the looking: from invocations in the log to text. Invariant: following gives every line once.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from estafeta.client.logbook import Entry
from estafeta.client.run import ENDED, Run
from estafeta.client.units import size
from estafeta.protocol.spec import Role

LOOK_S = {"local": 0.5, "aws": 3.0}
"""Seconds between two looks at the log."""
_ROUND = re.compile(r"\d+$")
_REPORTED = re.compile(r"(Billed Duration|Max Memory Used|Status|Error Type): ([^\t]+)")


@dataclass(frozen=True)
class Wanted:
    """Which invocations to show: those of some functions, and of one rank or of all."""

    roles: tuple[Role, ...]
    rank: int | None = None

    def __contains__(self, entry: Entry) -> bool:
        return entry.role in self.roles and (self.rank is None or entry.note.get("rank") == self.rank)


def lines_of(entry: Entry) -> list[str]:
    """What an invocation wrote, each line with its origin: `worker r3 #12 | …`, of residents `worker r3 leg 1 | …`."""
    parts: list[str] = [entry.role]
    if entry.note.get("task") in ("train", "valid"):
        parts += [f"r{entry.note['rank']}", f"#{entry.note['version']}"]
    elif entry.note.get("task") == "reside":
        parts += [f"r{entry.note['rank']}", f"leg {entry.note['leg']}"]
    elif match := _ROUND.search(str(entry.note.get("round", ""))):
        parts.append(f"#{int(match[0])}")
    origin = " ".join(parts)
    texts = [text for line in entry.lines for text in _readable(entry, line).splitlines()]
    if entry.report:
        texts.append("; ".join(f"{name.lower()} {value}" for name, value in _REPORTED.findall(entry.report)))
    return [f"{origin} | {text}" for text in texts]


def batches(run: Run, wanted: Wanted, *, follow: bool = False) -> Iterator[list[str]]:
    """The lines so far, in the order of their invocations' start; to follow, those that come until the run ends."""
    given: dict[tuple[str, int], int] = {}
    since_s = 0.0
    while True:
        ended = run.status().state in ENDED  # asked before the log is read, so the last lines are not missed
        entries = run.log(since_s)
        yield [line for entry in entries if entry in wanted for line in _new(entry, given)]
        if ended or not follow:
            return
        unfinished = [entry.started_at for entry in entries if not entry.report]
        since_s = min(unfinished, default=entries[-1].started_at if entries else 0) / 1000
        time.sleep(LOOK_S[run.on])


def _new(entry: Entry, given: dict[tuple[str, int], int]) -> list[str]:
    """The lines of an invocation that have not been given yet; they count as given from now on."""
    key, lines = (entry.request_id, entry.started_at), lines_of(entry)
    first, given[key] = given.get(key, 0), len(lines)
    return lines[first:]


def _readable(entry: Entry, line: str) -> str:
    """A function's own note as `key value, …`; anything else as it is."""
    if not (note := entry.note_in(line)):
        return line
    told = {key: value for key, value in note.items() if key not in ("run", "request_id") and value != ""}
    if traffic := told.get("traffic"):
        told["traffic"] = f"{size(traffic['read_bytes'])} read and {size(traffic['write_bytes'])} written" + (
            f" in {sum(traffic['calls'].values())} file operations"
        )
    return ", ".join(f"{key} {value}" for key, value in told.items())
