"""What the client may ask of a run, one verb after the other."""

from __future__ import annotations

import base64
import contextlib
import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.driver import Relay
from core.environment import forget
from core.events import failure_record
from core.faults import Killed, Mortal
from core.specs import CODE, spec_of
from estafeta.client.backend import Backend
from estafeta.client.find_run import all_runs
from estafeta.functions.verbs import fetch as module
from estafeta.functions.verbs import status as status_module
from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.layout import RunLayout, claim_of_leg
from estafeta.protocol.spec import Status, WorkerEvent
from estafeta.protocol.verbs import ControlEvent


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    return Relay(tmp_path, spec_of("plain"))


def done(relay: Relay) -> Relay:
    relay.run()
    return relay


def ask(relay: Relay, verb: str, **fields: Any) -> dict[str, Any]:
    return dict(relay.call("control", {"verb": verb, **fields}))


def error_of(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer.keys() == {"error"}
    assert answer["error"].keys() == {"kind", "message", "hint", "exit_code"}
    return dict(answer["error"])


# start


def start(relay: Relay, code: dict[str, str] = CODE, **changes: Any) -> dict[str, Any]:
    return ask(relay, "start", spec={**relay.spec.model_dump(), **changes}, code=code)


def test_starting_publishes_all_and_queues_one_event(relay: Relay, tmp_path: Path) -> None:
    relay.start()
    assert RunLayout("r").directories()
    assert all((tmp_path / directory).is_dir() for directory in relay.layout.directories())
    assert (tmp_path / relay.layout.code / "jobs.py").read_text() == CODE["jobs.py"] + f"# {relay.spec.token}\n"
    assert relay.step()
    assert relay.delivered[0].payload == WorkerEvent(run="r", task="prepare").model_dump()


def test_each_resident_has_an_outbox_from_the_first_moment(tmp_path: Path) -> None:
    for topology, residents in (("auto", 3), ("sharded", 3), ("replicated", 3), ("merge", 0)):
        relay = Relay(tmp_path, spec_of("plain", run=topology, workers=3, topology=topology))
        relay.start()
        assert all((tmp_path / directory).is_dir() for directory in relay.layout.directories(residents))
        assert (tmp_path / relay.layout.outbox(0)).is_dir() == (residents > 0)


def test_starting_twice_is_starting_once(relay: Relay, tmp_path: Path) -> None:
    relay.start()
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    relay.start()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content
    relay.drain()
    assert relay.outcome().state == "done"


@pytest.mark.parametrize("code", [CODE, {"json.py": "print('never imported')"}], ids=["same file", "other file"])
def test_a_name_is_given_once(code: dict[str, str], relay: Relay, tmp_path: Path) -> None:
    relay.start()
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    answer = error_of(start(relay, code, token="somebody else"))
    assert answer["kind"] == "Conflict"
    assert "There is a run named r already" in answer["message"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content


def test_a_name_stays_given_when_the_reserve_is_given_up(relay: Relay, tmp_path: Path) -> None:
    relay.start()
    (tmp_path / relay.layout.reserve).unlink()
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    edited = {"jobs.py": CODE["jobs.py"] + "\n# edited\n", "json.py": "print('never imported')"}
    assert error_of(start(relay, edited, token="somebody else"))["kind"] == "Conflict"
    (tmp_path / relay.layout.reserve).unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content


@pytest.mark.parametrize("name", ["", "..", "a/b", "Upper", "a" * 64])
def test_names_that_are_none(name: str, relay: Relay, tmp_path: Path) -> None:
    assert "cannot name a run" in error_of(start(relay, run=name))["message"]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path", ["../evil.py", "/evil.py", "a//b.py", "./a.py", "data.csv", "a/../../b.py", ".py/../a"]
)
def test_code_stays_in_its_folder(path: str, relay: Relay, tmp_path: Path) -> None:
    answer = error_of(start(relay, {path: ""}))
    assert "is no path of a Python module" in answer["message"]
    assert not list(tmp_path.rglob("*.py"))


def test_code_in_packages(relay: Relay, tmp_path: Path) -> None:
    start(
        relay,
        {
            "jobs.py": "from parts.deep import job\nplain = job",
            "parts/__init__.py": "",
            "parts/deep.py": CODE["jobs.py"] + "\njob = plain",
        },
    )
    relay.drain()
    assert relay.outcome().state == "done"


# status, runs


def test_the_status_of_a_run_through_its_life(relay: Relay) -> None:
    relay.start()
    status = Status.model_validate(relay.control("status"))
    assert (status.state, status.version, status.epoch, status.train_rows) == ("preparing", 0, 0, None)
    relay.step()
    status = Status.model_validate(relay.control("status"))
    assert (status.state, status.train_rows, status.valid_rows, status.total_steps) == ("running", 36, 12, 6)
    assert status.parameters == 6 * 12 + 12 + 12 * 3 + 3
    assert status.spec == relay.spec
    relay.drain()
    status = Status.model_validate(relay.control("status"))
    assert (status.state, status.version, status.epoch) == ("done", 6, 2)
    assert status.outcome == relay.outcome()


def test_the_epochs_that_are_new(relay: Relay) -> None:
    done(relay)
    for since, epochs in ((0, [1, 2]), (1, [2]), (2, []), (10**9, [])):
        status = Status.model_validate(relay.control("status", since_epoch=since))
        assert [record.epoch for record in status.epochs] == epochs
    assert Status.model_validate(relay.control("status", since_epoch=0)).epochs == tuple(relay.epochs())


def test_numbers_that_are_none_reach_the_client(tmp_path: Path) -> None:
    text = CODE["jobs.py"] + "\nplain = _like_plain(loss=lambda o, t: o.mean() if o.requires_grad else o.mean() / 0)\n"
    relay = Relay(tmp_path, spec_of("plain"), {"jobs.py": text})
    relay.run()
    status = Status.model_validate(relay.control("status"))
    assert abs(status.epochs[0].metrics["valid_loss"]) == float("inf")


def test_all_runs_are_listed(relay: Relay, tmp_path: Path) -> None:
    assert ask(relay, "runs") == {"runs": [], "unreadable": [], "more": False}
    done(relay)
    Relay(tmp_path, spec_of("adam", run="another", workers=3)).start()
    (tmp_path / "runs" / "half").mkdir()
    listed = [Status.model_validate(status) for status in ask(relay, "runs")["runs"]]
    assert [(status.spec.run, status.state) for status in listed] == [("another", "preparing"), ("r", "done")]


def test_more_runs_than_an_answer_holds(relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "ANSWER_BYTES", 0)
    for run in ("c", "a", "b"):
        Relay(tmp_path, spec_of("adam", run=run)).start()
    (tmp_path / "runs" / "a" / "run.json").write_text('{"format": "estafeta-run/9"}')

    def call(verb: ControlEvent) -> Any:
        return relay.call("control", verb.model_dump())

    found, unreadable = all_runs(cast("Backend", SimpleNamespace(call=call)))
    assert sorted(status.spec.run for status in found) == ["b", "c"]
    assert unreadable == ["a"]
    assert error_of(relay.call("control", {"verb": "status", "run": "a"}))["kind"] == "Corrupt"


@pytest.mark.parametrize("verb", ["status", "stop", "resume", "clean"])
def test_a_run_that_is_not_there(verb: str, relay: Relay) -> None:
    answer = error_of(relay.control(verb))
    assert (answer["kind"], answer["exit_code"]) == ("RunNotFound", 2)
    assert error_of(relay.control("fetch", which="final"))["kind"] == "RunNotFound"


@pytest.mark.parametrize("run", ["", "..", "../runs/r", "r/../r", "../elsewhere", "x" * 300])
def test_a_name_leads_nowhere_else(run: str, relay: Relay, tmp_path: Path) -> None:
    done(relay)
    shutil.copytree(tmp_path / "runs" / "r", tmp_path / "elsewhere")
    for verb in ({"verb": "status"}, {"verb": "clean"}, {"verb": "clean", "keep_final": True}, {"verb": "inspect"}):
        assert error_of(relay.call("control", {**verb, "run": run}))["kind"] == "RunNotFound"
    assert (tmp_path / "elsewhere" / "run.json").exists()
    assert relay.outcome().state == "done"


@pytest.mark.parametrize("event", [{}, {"verb": "dance"}, {"verb": "stop"}, [], None, "stop"])
def test_control_refuses_unknown_events(event: Any, relay: Relay) -> None:
    answer = error_of(relay.call("control", event))
    assert (answer["kind"], answer["exit_code"]) == ("UsageError", 2)
    assert "control does not understand" in answer["message"]
    assert "\n" not in answer["message"]
    assert "estafeta local stop" in answer["hint"]


def test_a_rule_that_makes_no_sense_is_refused(relay: Relay) -> None:
    assert "patience" in error_of(start(relay, early_stopping={"patience": 0}))["message"]
    assert relay.spec.early_stopping == EarlyStopping()


# stop, resume (their effects on a whole run: tests/core/test_stopping.py)


def test_stopping_a_run_that_has_ended_changes_nothing(relay: Relay) -> None:
    done(relay)
    assert relay.control("stop")["state"] == "done"
    relay.drain()
    assert relay.outcome().state == "done"
    assert not relay.store.exists(relay.layout.stop)
    assert "r is done" in error_of(relay.control("resume"))["message"]


def residents_sent_for(relay: Relay) -> list[tuple[int, int, int]]:
    """Rank, leg and generation of those that are queued; the queue is empty afterwards."""
    found = [event.payload for event in relay.queued()]
    while relay.queued():
        relay.drop()
    assert {event["task"] for event in found} <= {"reside"}
    return [(event["rank"], event["leg"], event["generation"]) for event in found]


@pytest.fixture
def residents(tmp_path: Path) -> Relay:
    """A run whose residents are at work, it seems: rank 0 in its first leg, rank 1 in its third."""
    relay = Relay(tmp_path, spec_of("plain", topology="sharded"))
    relay.start()
    relay.step()
    assert residents_sent_for(relay) == [(0, 0, 0), (1, 0, 0)]
    for rank, leg, generation in ((0, 0, 0), (1, 2, 1)):
        relay.store.claim(relay.layout.legs, claim_of_leg(rank, leg), generation=generation, token="t")
    return relay


def test_residents_see_the_request_to_stop_and_are_replaced_when_it_is_repeated(residents: Relay) -> None:
    assert residents.control("stop")["state"] == "stopping"
    assert residents_sent_for(residents) == []
    assert residents.control("stop")["state"] == "stopping"
    assert residents_sent_for(residents) == [(0, 0, 1), (1, 2, 2)]


def test_residents_are_replaced_by_resuming(residents: Relay) -> None:
    """They may be dead. If not, they see that they have been replaced, and leave."""
    assert residents.control("resume")["state"] == "running"
    assert residents_sent_for(residents) == [(0, 0, 1), (1, 2, 2)]


def test_the_steps_of_residents_are_counted_before_they_are_saved(residents: Relay) -> None:
    status = Status.model_validate(residents.control("status"))
    assert (status.version, status.topology) == (0, "sharded")
    residents.store.publish(residents.layout.message(0, "gradient", 5), [b"t"], "t")
    assert residents.control("status")["version"] == 5


def test_a_running_run_may_be_resumed(relay: Relay) -> None:
    relay.start()
    for _ in range(30):
        relay.step()
        relay.control("resume")
    relay.drain()
    assert relay.outcome().state == "done"


# events that Lambda has given up


@pytest.mark.parametrize(("chaos", "hint"), [("", "give it more"), ("kill=1,seed=3", "estafeta resume r")])
def test_a_run_that_was_killed_on_purpose_is_not_told_to_take_more_memory(
    chaos: str, hint: str, tmp_path: Path
) -> None:
    relay = Relay(tmp_path, spec_of("plain", chaos=chaos))
    relay.start()
    (event,) = relay.queued()
    relay.drop()
    relay.call("control", failure_record(event, "Runtime.ExitError", "Runtime exited with error: signal: killed"))
    failure = relay.outcome().failure
    assert failure is not None
    assert hint in failure.hint
    assert relay.control("resume")["state"] == "preparing"


# fetch


def test_a_file_is_fetched_in_parts(relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(relay)
    monkeypatch.setattr(module, "ANSWER_BYTES", 500)
    for which in ("best", "final"):
        for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
            content, size, parts = b"", 1, 0
            while len(content) < size:
                answer = relay.control("fetch", which=which, file=file, offset=len(content))
                part = base64.b64decode(answer["data"])
                assert 0 < len(part) <= 500
                content, size, parts = content + part, answer["size"], parts + 1
            assert content == (tmp_path / relay.layout.export(which) / file).read_bytes()
            assert parts == -(-size // 500)
    past = relay.control("fetch", which="final", offset=10**6)
    assert past["data"] == ""


def test_an_answer_fits_what_lambda_can_return() -> None:
    assert len(base64.b64encode(bytes(module.ANSWER_BYTES))) + 1000 < 6 * 1024 * 1024


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"which": "worst"}, "does not understand"),
        ({"which": "final", "file": "../run.json"}, "does not understand"),
        ({"which": "final", "offset": -1}, "does not understand"),
    ],
)
def test_missing_exports_cannot_be_fetched(fields: dict[str, Any], message: str, relay: Relay) -> None:
    done(relay)
    assert message in error_of(relay.control("fetch", **fields))["message"]


def test_nothing_is_fetched_from_a_run_at_work(relay: Relay) -> None:
    relay.start()
    relay.step()
    answer = error_of(relay.control("fetch", which="final"))
    assert "r is still running" in answer["message"]
    assert "estafeta stop r" in answer["hint"]


def test_an_optimizer_without_state_has_no_file(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("convolutional"))
    done(relay)
    answer = error_of(relay.control("fetch", which="final", file="optimizer.safetensors"))
    assert "r has no final/optimizer.safetensors" in answer["message"]


# clean


def test_a_run_is_cleaned_away(relay: Relay, tmp_path: Path) -> None:
    relay.start()
    assert "r has not ended" in error_of(relay.control("clean"))["message"]
    relay.drain()
    assert relay.control("clean") == {"run": "r"}
    assert not (tmp_path / "runs" / "r").exists()
    assert error_of(relay.control("clean"))["kind"] == "RunNotFound"


def test_cleaning_that_was_broken_off_is_finished_by_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    done(Relay(tmp_path / "whole", spec_of("plain", workers=1)))
    for after in itertools.count():
        shutil.copytree(tmp_path / "whole", tmp_path / str(after))
        files = Mortal()
        relay = Relay(tmp_path / str(after), spec_of("plain", workers=1), files=files)
        files.start(after)
        with contextlib.suppress(Killed):
            assert relay.control("clean") == {"run": "r"}
            break
        files.start(None)
        answer = relay.control("clean")
        assert answer == {"run": "r"} or answer["error"]["kind"] == "RunNotFound"
        assert list((tmp_path / str(after) / "runs").iterdir()) == []
    assert after > 30


def test_events_of_a_cleaned_run_do_nothing(relay: Relay, tmp_path: Path) -> None:
    done(relay)
    late = [event for event in relay.delivered if event.role != "control"]
    relay.control("clean")
    forget()
    for event in late:
        relay.send(event.role, event.payload)
    relay.drain()
    assert not (tmp_path / "runs" / "r").exists()


def test_a_run_of_an_older_format_is_refused(relay: Relay, tmp_path: Path) -> None:
    relay.start()
    path = tmp_path / relay.layout.spec
    path.write_text(path.read_text().replace("estafeta-run/2", "estafeta-run/1"))
    for verb in ("status", "resume", "inspect", "stop", "clean"):
        error = error_of(relay.control(verb))
        assert error["kind"] == "Corrupt"
        assert "'estafeta-run/1'" in error["message"]
        assert "'estafeta-run/2'" in error["message"]
        assert "another version of Estafeta" in error["hint"]


def test_the_spec_is_read_anew(relay: Relay, tmp_path: Path) -> None:
    """`control` outlives the runs that it cleans away; a later run may have the name again."""
    done(relay)
    relay.control("clean")
    again = Relay(tmp_path, spec_of("plain", workers=1))
    again.run()
    assert relay.control("status")["spec"]["workers"] == 1
