"""Reading a run's invocations out of the functions' logs, and pricing them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from estafeta.client.logbook import entries, faults_of, usage_of
from estafeta.cost.meter import Traffic, traffic_of
from estafeta.protocol.spec import FunctionSettings, Role

FUNCTIONS: Mapping[Role, FunctionSettings] = {
    "worker": FunctionSettings(name="s-worker", memory_mb=2048, timeout_s=9),
    "merge": FunctionSettings(name="s-merge", memory_mb=1024, timeout_s=9),
}


class Missing(Exception):
    """Stands for the client's ResourceNotFoundException."""


class Logs:
    """A CloudWatch Logs client with the given messages by group and stream."""

    class exceptions:  # noqa: N801
        ResourceNotFoundException = Missing

    def __init__(self, streams: dict[tuple[str, str], list[str]]) -> None:
        self._streams = streams

    def get_paginator(self, name: str) -> Logs:
        assert name == "filter_log_events"
        return self

    def paginate(
        self,
        logGroupName: str,  # noqa: N803
        startTime: int,  # noqa: N803
        filterPattern: str = "",  # noqa: N803
    ) -> Iterator[dict[str, Any]]:
        chosen = {
            stream: [line for line in lines if filterPattern in line]
            for (group, stream), lines in self._streams.items()
            if group == logGroupName
        }
        if not chosen:
            raise Missing
        events = [
            {"logStreamName": stream, "timestamp": startTime + index, "message": line + "\n"}
            for stream, lines in chosen.items()
            for index, line in enumerate(lines)
        ]
        yield {"events": events[:3]}
        yield {"events": events[3:]}


def invocation(request: str, run: str | None, billed_ms: int, memory_mb: int, **note: object) -> list[str]:
    said = [f'{{"run": "{run}", "request_id": "{request}"' + "".join(f', "{k}": "{v}"' for k, v in note.items()) + "}"]
    return [
        f"START RequestId: {request} Version: $LATEST",
        *(said if run else []),
        "a line of the user's",
        f"END RequestId: {request}",
        f"REPORT RequestId: {request}\tDuration: 1.2 ms\tBilled Duration: {billed_ms} ms\tMemory Size: {memory_mb} MB"
        "\tMax Memory Used: 99 MB\t",
    ]


CLIENT = Logs(
    {
        ("/aws/lambda/s-worker", "one"): [
            *invocation("w1", "mine", 500, 2048, task="train"),
            *invocation("w2", "other", 100, 2048, task="train"),
            *invocation("w1", "mine", 250, 2048, task="train"),
        ],
        ("/aws/lambda/s-worker", "two"): [
            *invocation("w3", "mine", 1000, 2048, task="prepare"),
            *invocation("w4", None, 1000, 2048),
        ],
        ("/aws/lambda/s-worker", "faults"): [
            "FAULT RequestId: w1\tFault: kill\tName: mine",
            "FAULT RequestId: w1\tFault: delay\tName: mine",
            "FAULT RequestId: w9\tFault: kill\tName: other",
            "FAULT RequestId: w3\tFault: kill\tName: mine",
        ],
    }
)


def test_the_runs_invocations_are_found_with_their_lines() -> None:
    found = entries(CLIENT, FUNCTIONS, "mine", 0.0)
    assert [entry.request_id for entry in found] == ["w1", "w3", "w1"]
    assert all(entry.role == "worker" and entry.lines[-1] == "a line of the user's" for entry in found)


def test_injected_faults_are_counted_by_kind() -> None:
    assert faults_of(CLIENT, FUNCTIONS, "mine", 0.0) == {"kill": 2, "delay": 1}
    assert faults_of(CLIENT, FUNCTIONS, "another", 0.0) == {}


def test_usage_adds_up_and_counts_second_attempts_as_retries() -> None:
    usage = usage_of(entries(CLIENT, FUNCTIONS, "mine", 0.0))
    assert (usage.invocations, usage.retries, usage.legs) == ({"worker": 3}, 1, 1)
    assert usage.billed_gb_seconds == 2 * (0.5 + 0.25 + 1.0)


def test_usage_adds_up_what_each_invocation_says_of_its_file_operations_and_of_its_log() -> None:
    """GIVEN two invocations that came to their end and one that was killed WHEN they are added THEN it says nothing."""
    first, second = traffic_of({"list": 2}, {100: 3}, {}), traffic_of({"open": 1, "link": 1}, {}, {1 << 20: 1})
    said = [
        json.dumps({"run": "mine", "request_id": request, "done": "x", "traffic": asdict(traffic)})
        for request, traffic in (("a", first), ("b", second))
    ]
    of_the_user = ['{"run": "mine", "request_id": "b", "traffic": "hea', '{"run": "mine", "traffic": "heavy"}']
    lines = [
        f"{line}"
        for request, note in zip(("a", "b", "c"), (*said, "killed"), strict=True)
        for line in (
            f"START RequestId: {request} Version: 1",
            *of_the_user,
            json.dumps({"run": "mine", "request_id": request}),
            note,
            f"REPORT RequestId: {request}\tx",
        )
    ]
    found = entries(Logs({("/aws/lambda/s-worker", "one"): lines}), FUNCTIONS, "mine", 0.0)
    usage = usage_of(found)
    assert usage.traffic == first + second
    assert usage.log_bytes == sum(len(line) + 1 for line in lines)
    assert [entry.traffic for entry in found] == [first, second, Traffic()]


def test_an_invocation_that_is_at_work_counts_up_to_now_and_no_longer_than_it_may() -> None:
    lines = ["START RequestId: w1 Version: 1", '{"run": "mine", "request_id": "w1"}']
    found = entries(Logs({("/aws/lambda/s-worker", "one"): lines}), FUNCTIONS, "mine", 100.0)
    assert usage_of(found).billed_gb_seconds == 0
    assert usage_of(found, FUNCTIONS, 103.0).billed_gb_seconds == 3.0 * 2
    assert usage_of(found, FUNCTIONS, 1000.0).billed_gb_seconds == 9.0 * 2
