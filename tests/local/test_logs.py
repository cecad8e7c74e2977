"""Logs, through boto3's CloudWatch Logs client, and the search by itself."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from estafeta.local import stop
from estafeta.local.logs.search import pattern, search
from estafeta.local.logs.streams import LogStream, read_events, read_marks, remove_streams, stream_names

from .conftest import LocalService, Start, client, eventually, launch


@pytest.mark.parametrize(
    ("text", "message", "expected"),
    [
        ("", "anything", True),
        ("one two", "two and one", True),
        ("one two", "one only", False),
        ("One", "one", False),
    ],
)
def test_filter_patterns(text: str, message: str, expected: bool) -> None:
    assert pattern(text)(message) is expected


@pytest.mark.parametrize("text", ["{ $.level = 1 }", "[a, b]", "%x+%", '"one two"', "?one ?two", "one -two"])
def test_patterns_other_than_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain words"):
        pattern(text)


def test_lines_take_the_time_of_the_mark_before_them(tmp_path: Path) -> None:
    stream = LogStream(tmp_path, "/group", "$LATEST")
    stream.write("first\n")
    with open(stream.path, "a") as file:
        file.write("of the function\ntraceback\rsecond line\n")
    stream.write("last\n")
    with open(stream.path, "a") as file:
        file.write("incomplete")
    stream.close()
    [name] = stream_names(tmp_path, "/group")
    marks = read_marks(tmp_path, "/group", name)
    events = list(read_events(tmp_path, "/group", name))
    assert [event.message for event in events] == ["first", "of the function", "traceback\nsecond line", "last"]
    assert [event.timestamp_ms for event in events] == [marks[0][1]] * 3 + [marks[1][1]]


def test_times_never_decrease_though_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = LogStream(tmp_path, "/group", "$LATEST")
    for seconds in (10, 7, 12):
        monkeypatch.setattr(time, "time_ns", lambda seconds=seconds: seconds * 10**9)
        stream.write("line\n")
    stream.close()
    [name] = stream_names(tmp_path, "/group")
    assert [time_ms for _, time_ms in read_marks(tmp_path, "/group", name)] == [10_000, 10_000, 12_000]


def test_streams_of_earlier_runs_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = LogStream(tmp_path, "/group", "1"), LogStream(tmp_path, "/group", "2")
    start_ms = time.time_ns() // 1_000_000
    monkeypatch.setattr(time, "time_ns", lambda: (start_ms - 1) * 1_000_000)
    old.write("old\n")
    monkeypatch.setattr(time, "time_ns", lambda: start_ms * 1_000_000)
    new.write("new\n")
    for stream in (old, new):
        stream.close()
    old.path.unlink()  # reading it would fail
    page = search(
        tmp_path,
        "/group",
        [old.name, new.name],
        start_ms=start_ms,
        end_ms=start_ms + 60_000,
        matches=pattern(""),
        limit=10,
        token=None,
    )
    assert [event.message for event in page.events] == ["new"]


def test_old_streams_are_removed(tmp_path: Path) -> None:
    old, new = LogStream(tmp_path, "/group", "1"), LogStream(tmp_path, "/group", "2")
    for stream in (old, new):
        stream.write("line\n")
        stream.close()
    os.utime(old.path, (1.0, 1.0))
    remove_streams(tmp_path, "/group", time.time() - 60.0)
    assert stream_names(tmp_path, "/group") == [new.name]
    assert len(list(new.path.parent.iterdir())) == 2
    os.utime(new.path, (1.0, 1.0))
    remove_streams(tmp_path, "/group", time.time() - 60.0)
    assert not new.path.parent.exists()
    remove_streams(tmp_path, "/nothing", time.time())


def test_a_service_removes_what_is_older_than_the_template_says(tmp_path: Path, start: Start) -> None:
    streams = [LogStream(tmp_path / "logs", f"/aws/lambda/{function}", "1") for function in ("echo", "count")]
    for stream in streams:
        stream.close()
        os.utime(stream.path, (time.time() - 90_000.0,) * 2)  # 25 hours
    start()
    eventually(lambda: not streams[0].path.exists())
    assert streams[1].path.exists(), "nothing is said of its log group"


def test_a_full_disk_loses_lines_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Path, "with_suffix", lambda _path, _suffix: Path("/dev/full"))  # every write to it: ENOSPC
    stream = LogStream(tmp_path, "/group", "$LATEST")
    stream.write("line\n")
    stream.close()
    assert "No space left on device" in caplog.text


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """A service that has logged twenty numbered lines in two environments."""
    service = launch(tmp_path_factory.mktemp("talked"))
    lines = [f"number {n:02d} {'even' if n % 2 == 0 else 'odd'}" for n in range(20)]
    service.call("talk", {"lines": lines[:10]})
    service.lambda_client.publish_version(FunctionName="talk")
    service.call("talk", {"lines": lines[10:]}, Qualifier="1")
    yield service
    stop(service.home)


GROUP = "/aws/lambda/talk"


def test_streams_are_described(talked: LocalService) -> None:
    logs = client(talked.endpoint, "logs")
    streams = logs.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", descending=True)["logStreams"]
    assert len(streams) == 2
    assert "/[1]" in streams[0]["logStreamName"]
    assert "/[$LATEST]" in streams[1]["logStreamName"]
    assert streams[0]["lastEventTimestamp"] >= streams[1]["lastEventTimestamp"]
    first = logs.describe_log_streams(logGroupName=GROUP, limit=1)
    second = logs.describe_log_streams(logGroupName=GROUP, limit=1, nextToken=first["nextToken"])
    assert "nextToken" not in second
    assert first["logStreams"] != second["logStreams"]


def test_events_are_filtered_ordered_and_paged(talked: LocalService) -> None:
    logs = client(talked.endpoint, "logs")
    found = logs.filter_log_events(logGroupName=GROUP, filterPattern="number odd")["events"]
    assert [event["message"] for event in found] == [f"number {n:02d} odd" for n in range(1, 20, 2)]
    assert len({event["eventId"] for event in found}) == len(found)
    paged = logs.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, filterPattern="number", PaginationConfig={"PageSize": 3}
    )
    pages = [[event["message"] for event in page["events"]] for page in paged]
    assert [len(page) for page in pages] == [3] * 6 + [2]
    assert [message[7:9] for page in pages for message in page] == [f"{n:02d}" for n in range(20)]


def test_events_are_chosen_by_time_and_stream(talked: LocalService) -> None:
    logs = client(talked.endpoint, "logs")
    now_ms = time.time_ns() // 10**6
    assert logs.filter_log_events(logGroupName=GROUP, startTime=now_ms + 1000)["events"] == []
    assert logs.filter_log_events(logGroupName=GROUP, endTime=now_ms - 60_000)["events"] == []
    reports = logs.filter_log_events(logGroupName=GROUP, filterPattern="REPORT", startTime=now_ms - 60_000)["events"]
    assert len(reports) == 2
    [report] = logs.filter_log_events(
        logGroupName=GROUP, filterPattern="REPORT", logStreamNames=[reports[0]["logStreamName"]]
    )["events"]
    assert report == reports[0]


def test_unknown_groups_and_bad_requests_are_refused(talked: LocalService) -> None:
    logs = client(talked.endpoint, "logs")
    for name in ("/aws/lambda/nobody", "../../.."):
        with pytest.raises(logs.exceptions.ResourceNotFoundException):
            logs.filter_log_events(logGroupName=name)
    with pytest.raises(logs.exceptions.InvalidParameterException):
        logs.filter_log_events(logGroupName=GROUP, filterPattern="{ $.x = 1 }")
    with pytest.raises(logs.exceptions.InvalidParameterException):
        logs.filter_log_events(logGroupName=GROUP, nextToken="rubbish")
    with pytest.raises(ClientError, match="UnknownOperationException"):
        logs.describe_log_groups()


def test_logs_survive_the_service(talked: LocalService) -> None:
    stop(talked.home)
    logs = client(launch(talked.home).endpoint, "logs")
    assert len(logs.filter_log_events(logGroupName=GROUP, filterPattern="number")["events"]) == 20
