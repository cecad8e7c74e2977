"""A run's part of the functions' logs: its invocations, their lines and billed times.

The client reads the logs through the CloudWatch Logs API. An invocation lies between its START and its REPORT line. It
belongs to the run that the function names in a line of its own (`Invocation.note`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from estafeta.cost.cost import Usage
from estafeta.cost.meter import Traffic
from estafeta.protocol.spec import FunctionSettings, Role

_REQUEST = re.compile(r"(START|END|REPORT) RequestId: (\S+)")
_FAULT = re.compile(r"FAULT RequestId: \S+\tFault: (\w+)\tName: (\S+)")
_DURATION = re.compile(r"\tDuration: ([\d.]+) ms")
_INIT = re.compile(r"\tInit Duration: ([\d.]+) ms")
_STATUS = re.compile(r"\tStatus: (?:timeout|error)\b")
_RAISED = "[ERROR] "
"""Beginning of the line in which AWS's runtime client reports a handler's exception; a logger writes a tab there."""
_BILLED = re.compile(r"Billed Duration: (\d+) ms\tMemory Size: (\d+) MB")


@dataclass
class Entry:
    """One invocation in the logs.

    Attributes:
        role: Role of the function.
        request_id: Request id of the event; a retry has the same.
        started_at: Milliseconds since 1970.
        lines: Lines between START and END.
        note: The first line that the function wrote about its run, decoded.
        report: REPORT line; empty while the invocation runs.
        traffic: File operations; none before its end.
        size: Bytes of all its lines.
    """

    role: Role
    request_id: str
    started_at: int
    lines: list[str] = field(default_factory=list)
    note: Mapping[str, Any] = field(default_factory=dict)
    report: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    size: int = 0

    @property
    def gb_seconds(self) -> float:
        """GB-seconds: billed duration times memory size."""
        match = _BILLED.search(self.report)
        return int(match[1]) / 1000 * int(match[2]) / 1024 if match else 0.0

    @property
    def duration_ms(self) -> float:
        """Milliseconds from the delivery of the event to the answer; 0 while it runs."""
        return _milliseconds(_DURATION, self.report)

    @property
    def init_ms(self) -> float:
        """Milliseconds in which its environment started before that; 0 if the environment was warm."""
        return _milliseconds(_INIT, self.report)

    @property
    def has_failed(self) -> bool:
        """Whether it was killed, or ended with an error."""
        return bool(_STATUS.search(self.report)) or any(line.startswith(_RAISED) for line in self.lines)

    @property
    def notes(self) -> list[Mapping[str, Any]]:
        """All notes of the function about its run, in order."""
        return [note for line in self.lines if (note := self.note_in(line))]

    def note_in(self, line: str) -> Mapping[str, Any]:
        """The function's note about its run in a line; empty if the user's code wrote the line."""
        if not line.startswith('{"run": '):
            return {}
        try:
            note: Mapping[str, Any] = json.loads(line)
        except ValueError:
            return {}
        return note if note.get("request_id") == self.request_id else {}


def entries(client: Any, functions: Mapping[Role, FunctionSettings], run: str, since_s: float) -> list[Entry]:
    """A run's invocations, in the order of their start.

    Args:
        client: A boto3 CloudWatch Logs client.
        functions: The run's functions.
        run: The run's name.
        since_s: Seconds since 1970; the run has no older line.
    """
    found = [
        entry
        for role, function in functions.items()
        for entry in list(_invocations(role, _events(client, function.log_group, since_s)))
        if entry.note.get("run") == run
    ]
    return sorted(found, key=lambda entry: entry.started_at)


def usage_of(
    found: Iterable[Entry], running: Mapping[Role, FunctionSettings] | None = None, now_s: float = 0.0
) -> Usage:
    """The usage of a run's invocations, added up.

    Args:
        found: The invocations.
        running: The run's functions, while it goes on: an invocation without a REPORT line is then at work, and counts
            up to now. After the run's end, such an invocation was cut off.
        now_s: Seconds since 1970.
    """
    found = list(found)
    at_work = [entry for entry in found if not entry.report] if running else []
    first = {entry.request_id: entry for entry in found}
    return Usage(
        invocations=dict(Counter(entry.role for entry in found)),
        retries=len(found) - len(first),
        legs=sum(entry.note.get("task") in ("train", "valid", "reside") for entry in first.values()),
        billed_gb_seconds=sum(entry.gb_seconds for entry in found)
        + sum(_so_far(entry, running[entry.role], now_s) for entry in at_work if running),
        traffic=sum((entry.traffic for entry in found), Traffic()),
        log_bytes=sum(entry.size for entry in found),
    )


def _milliseconds(pattern: re.Pattern[str], report: str) -> float:
    match = pattern.search(report)
    return float(match[1]) if match else 0.0


def _so_far(entry: Entry, function: FunctionSettings, now_s: float) -> float:
    """GB-seconds of an invocation at work, up to its time limit."""
    seconds = min(max(0.0, now_s - entry.started_at / 1000), function.timeout_s)
    return seconds * function.memory_mb / 1024


def faults_of(client: Any, functions: Mapping[Role, FunctionSettings], run: str, since_s: float) -> dict[str, int]:
    """Number of faults of each kind that the local service has injected into a run; arguments as for `entries`."""
    matches = [
        match
        for function in functions.values()
        for event in _events(client, function.log_group, since_s, filterPattern="FAULT")
        if (match := _FAULT.match(event["message"])) and match[2] == run
    ]
    return dict(Counter(match[1] for match in matches))


def _events(client: Any, group: str, since_s: float, **options: str) -> Iterator[Mapping[str, Any]]:
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group, startTime=int(since_s * 1000), **options
    )
    try:
        for page in pages:
            yield from page["events"]
    except client.exceptions.ResourceNotFoundException:
        return  # a function without any invocation has no log group


def _invocations(role: Role, events: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    current: dict[str, Entry] = {}
    for event in events:
        stream, message = event["logStreamName"], event["message"].rstrip("\n")
        match = _REQUEST.match(message)
        if match and match[1] == "START":
            current[stream] = Entry(role, match[2], event["timestamp"], size=len(event["message"].encode()))
            yield current[stream]
        elif entry := current.get(stream):
            entry.size += len(event["message"].encode())
            if match and match[1] == "REPORT":
                entry.report = message
            elif not match:
                entry.lines.append(message)
                if note := entry.note_in(message):
                    entry.note = entry.note or note
                    if "traffic" in note:
                        entry.traffic = Traffic(**note["traffic"])
