"""The guard against endless chains of calls."""

from collections import Counter
from pathlib import Path

from estafeta.local.work.lineage import LIMIT, count_call

from .conftest import LocalService, eventually, notes


def test_counts_are_per_function_and_survive_the_header() -> None:
    trace = ""
    for turn in range(3):
        for name in ("a", "b"):
            trace, before = count_call(trace, name)
            assert before == turn
    assert count_call(trace, "c")[1] == 0
    assert trace.startswith("Root=1-")
    assert count_call(trace, "a")[0].partition(";")[0] == trace.partition(";")[0], "the root is kept"


def test_a_foreign_header_begins_a_chain() -> None:
    trace, before = count_call("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", "a")
    assert before == 0
    assert trace.startswith("Root=1-5759e988-bd862e3fe1be46a994272793;")
    assert count_call("Lineage=rubbish,:,x:y", "a")[1] == 0


def test_an_asynchronous_loop_is_stopped_and_reported(service: LocalService, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    event = {"path": str(path), "kind": "Event", "functions": ["loop"], "depth": 0, "most": 40}
    service.send("loop", event)

    def stopped():
        return [line for line in notes(service.sink) if line["record"]["requestPayload"].get("path") == str(path)]

    [line] = eventually(stopped)
    assert len(notes(path)) == LIMIT
    assert line["record"]["requestContext"]["condition"] == "RecursiveInvocationLoop"
    assert line["record"]["requestPayload"]["depth"] == LIMIT
    assert "," not in line["trace"].partition("Lineage=")[2], "the report begins a chain of its own"


def test_a_synchronous_loop_gets_an_error(service: LocalService, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    event = {"path": str(path), "kind": "RequestResponse", "functions": ["loop"], "depth": 0, "most": 40}
    answer = service.call("loop", event)
    assert len(notes(path)) == LIMIT
    assert "RecursiveInvocationException" in str(answer.payload)


def test_allow_passes_but_does_not_hide_the_others(service: LocalService, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    event = {"path": str(path), "kind": "Event", "functions": ["allowed-loop"], "depth": 0, "most": 20}
    service.send("allowed-loop", event)
    eventually(lambda: len(notes(path)) == 21)

    path = tmp_path / "mixed"
    event = {"path": str(path), "kind": "Event", "functions": ["loop", "allowed-loop"], "depth": 0, "most": 60}
    service.send("loop", event)
    eventually(lambda: [n for n in notes(service.sink) if n["record"]["requestPayload"].get("path") == str(path)])
    assert Counter(line["function"] for line in notes(path)) == {"loop": LIMIT, "allowed-loop": LIMIT}
