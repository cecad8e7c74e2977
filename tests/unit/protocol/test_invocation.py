"""What functions send each other, and what they know of themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.clock import VirtualClock
from core.driver import Relay
from core.environment import forget
from core.specs import spec_of
from estafeta.aws.lambda_api import LambdaInvoker
from estafeta.errors import Gone
from estafeta.functions.entry import invocation_of
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import Round
from estafeta.protocol.run_folder import open_folder
from estafeta.protocol.snapshot import Action, Finish, Merge, Prepare, Reside, Work
from estafeta.protocol.spec import MergeEvent, Role, WorkerEvent
from estafeta.store.store import Store


class Recorder:
    """An `Invoker` that only takes note."""

    def __init__(self) -> None:
        self.sent: list[tuple[Role, Mapping[str, Any]]] = []

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        self.sent.append((role, event))

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        raise AssertionError("nothing waits for a function")


def invocation_with(recorder: Recorder, tmp_path: Path, **fields: Any) -> Invocation:
    return Invocation(Store(tmp_path), lambda functions: recorder, "t", lambda: 1.0, **fields)


@pytest.mark.parametrize(
    ("actions", "sent"),
    [
        ((), []),
        ((Prepare(),), [("worker", WorkerEvent(run="r", task="prepare"))]),
        (
            (Work(Round(3, "train"), 0), Work(Round(3, "train"), 2, leg=4)),
            [
                ("worker", WorkerEvent(run="r", task="train", version=3, rank=0)),
                ("worker", WorkerEvent(run="r", task="train", version=3, rank=2, leg=4)),
            ],
        ),
        ((Work(Round(3, "valid"), 1),), [("worker", WorkerEvent(run="r", task="valid", version=3, rank=1))]),
        ((Merge(Round(3, "valid")),), [("merge", MergeEvent(run="r", round="valid-00000003"))]),
        ((Finish("stopped", "on request"),), [("merge", MergeEvent(run="r"))]),
    ],
)
def test_actions_become_events(
    actions: tuple[Action, ...], sent: list[tuple[Role, WorkerEvent | MergeEvent]], tmp_path: Path
) -> None:
    recorder = Recorder()
    dispatch(actions, spec_of("plain"), invocation_with(recorder, tmp_path))
    assert recorder.sent == [(role, event.model_dump()) for role, event in sent]
    models = {"worker": WorkerEvent, "merge": MergeEvent}
    for role, event in recorder.sent:
        text = json.dumps(event)
        assert len(text) < 300, "an event holds no tensors"
        assert models[role].model_validate(json.loads(text)).model_dump() == event


def test_a_resident_is_told_when_it_was_sent_for(tmp_path: Path) -> None:
    recorder, clock = Recorder(), VirtualClock()
    clock.sleep(7.5)
    invocation = Invocation(Store(tmp_path, clock=clock), lambda functions: recorder, "t", lambda: 1.0)
    actions = (Reside(0), Reside(2, leg=4, generation=1, lead_s=3.5, expires_at=90.0))
    dispatch(actions, spec_of("plain"), invocation)
    assert recorder.sent == [
        ("worker", WorkerEvent(run="r", task="reside", rank=0, sent_at=7.5).model_dump()),
        (
            "worker",
            WorkerEvent(
                run="r", task="reside", rank=2, leg=4, generation=1, sent_at=7.5, lead_s=3.5, expires_at=90.0
            ).model_dump(),
        ),
    ]


def test_events_carry_no_tensors_however_large_the_run_is(tmp_path: Path) -> None:
    recorder = Recorder()
    spec = spec_of("plain", run="x" * 63, workers=9999)
    largest = (
        Work(Round(99_999_999, "train"), 9998, leg=999),
        Reside(9998, leg=999, generation=99, lead_s=1 / 3, expires_at=1e9 + 1 / 3),
    )
    dispatch(largest, spec, invocation_with(recorder, tmp_path))
    assert max(len(json.dumps(event)) for _, event in recorder.sent) < 300


def test_invocation_has_what_lambda_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTAFETA_ROOT", os.fspath(tmp_path))
    context = SimpleNamespace(
        aws_request_id="1234",
        function_name="estafeta-worker",
        log_group_name="the group",
        log_stream_name=None,
        get_remaining_time_in_millis=lambda: 2500,
    )
    invocation = invocation_of(context)
    assert invocation.token == "1234"
    assert invocation.remaining_s() == 2.5
    assert (invocation.function, invocation.log_group, invocation.log_stream) == ("estafeta-worker", "the group", "")
    assert invocation.store.root == os.fspath(tmp_path)
    assert invocation.connect is LambdaInvoker
    assert invocation_of(context).store is invocation.store, "a warm environment keeps its store"


def test_a_note_is_a_line_that_ties_the_request_to_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invocation_with(Recorder(), tmp_path).note("amber-41", done="merged\nthat")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('{"run": "amber-41"')
    assert json.loads(line) == {"run": "amber-41", "request_id": "t", "done": "merged\nthat"}
    invocation_with(Recorder(), tmp_path, quiet=True).note("amber-41")
    assert capsys.readouterr().out == ""


def test_a_spec_is_read_once(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    with pytest.raises(Gone):
        _ = open_folder(relay.store, "r").spec
    relay.start()
    assert open_folder(relay.store, "r").spec == relay.spec
    os.unlink(tmp_path / relay.layout.spec)
    assert open_folder(relay.store, "r").spec == relay.spec
    forget()
    with pytest.raises(Gone):
        _ = open_folder(relay.store, "r").spec
