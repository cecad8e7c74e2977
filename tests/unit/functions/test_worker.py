"""The life of one worker invocation. What becomes of many is in `tests/core`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.driver import Relay
from core.specs import spec_of
from estafeta.errors import Gone
from estafeta.functions.worker import handler
from estafeta.protocol.layout import Round, claim_of
from estafeta.protocol.listing import legs_in, ranks_in
from estafeta.protocol.message import form_of, glance
from estafeta.protocol.snapshot import read_plan
from estafeta.protocol.spec import WorkerEvent
from estafeta.store.store import claim_name

FIRST = Round(0, "train")


def prepared(tmp_path: Path, **options: Any) -> Relay:
    """A run of two workers that is prepared, with nothing queued."""
    relay = Relay(tmp_path, spec_of("plain"), **options)
    relay.start()
    relay.step()
    while relay.queued():
        relay.drop()
    return relay


def work(relay: Relay, **event: Any) -> str:
    return str(relay.call("worker", WorkerEvent(run="r", **event).model_dump())["done"])


def test_the_last_rank_invokes_the_merge(tmp_path: Path) -> None:
    relay = prepared(tmp_path)
    assert work(relay, task="train", rank=1) == "contributed"
    assert relay.queued() == []
    assert work(relay, task="train", rank=0) == "contributed, invoked the merge"
    assert [(event.role, event.payload["round"]) for event in relay.queued()] == [("merge", "train-00000000")]
    assert relay.store.list(relay.layout.legs) == {claim_name(claim_of(FIRST), 0)}


def test_a_duplicate_computes_nothing_and_invokes_nobody(tmp_path: Path) -> None:
    relay = prepared(tmp_path)
    work(relay, task="train", rank=0)
    path = tmp_path / relay.layout.contribution(FIRST, 0)
    before = path.stat()
    assert work(relay, task="train", rank=0) == "a duplicate"
    work(relay, task="train", rank=1)
    assert work(relay, task="train", rank=0) == "a duplicate"
    assert len(relay.queued()) == 1
    assert path.stat() == before


def test_the_retry_of_the_last_rank_invokes_the_merge_again(tmp_path: Path) -> None:
    """It may have died after its claim and before its call."""
    relay = prepared(tmp_path)
    work(relay, task="train", rank=1)
    relay.send("worker", WorkerEvent(run="r", task="train", rank=0).model_dump())
    (event,) = relay.queued()
    relay.step()
    relay.drop()
    assert relay.redeliver(event) == {"done": "a duplicate, invoked the merge"}
    assert len(relay.queued()) == 1


def test_a_share_is_handed_over_when_time_is_short(tmp_path: Path) -> None:
    """Eight rows in micro-batches of four."""
    relay = prepared(tmp_path, remaining_s=lambda: 0.0)
    assert work(relay, task="train", rank=1) == "handed over to leg 1"
    assert legs_in(relay.store.list(relay.layout.partial), FIRST) == {1: 1}
    path = relay.layout.partial_of(FIRST, 1, 1)
    head = relay.store.reading(path, glance)
    assert (head.rows, head.parts) == (4, 1)
    assert [event.payload["leg"] for event in relay.queued()] == [1]
    assert work(relay, task="train", rank=1, leg=1) == "contributed"
    path = relay.layout.contribution(FIRST, 1)
    head = relay.store.reading(path, glance)
    assert (head.rows, head.parts) == (8, 2)


def test_one_micro_batch_is_done_however_short_the_time_is(tmp_path: Path) -> None:
    relay = prepared(tmp_path, remaining_s=lambda: -5.0)
    assert work(relay, task="train", rank=0) == "handed over to leg 1"
    assert work(relay, task="train", rank=0, leg=1) == "contributed"


def test_a_duplicate_of_a_leg_leaves_the_next_to_the_other(tmp_path: Path) -> None:
    relay = prepared(tmp_path, remaining_s=lambda: 0.0)
    work(relay, task="train", rank=0)
    assert work(relay, task="train", rank=0) == "left: a duplicate has got to the next leg"
    assert len(relay.queued()) == 1


def test_the_retry_of_a_leg_invokes_the_next_again(tmp_path: Path) -> None:
    relay = prepared(tmp_path, remaining_s=lambda: 0.0)
    relay.send("worker", WorkerEvent(run="r", task="train", rank=0).model_dump())
    (event,) = relay.queued()
    relay.step()
    relay.drop()
    assert relay.redeliver(event) == {"done": "handed over to leg 1"}
    assert len(relay.queued()) == 1


def test_a_share_without_rows(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=8), remaining_s=lambda: 0.0)
    relay.start()
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(2)))
    assert work(relay, task="train", version=2, rank=0) == "contributed"
    path = relay.layout.contribution(Round(2, "train"), 0)
    form = form_of(read_plan(relay.store, relay.layout), "train")
    head, size = relay.store.reading(path, lambda reader: (form.read(reader)[0], reader.size))
    assert (head.rows, size) == (0, form.vector_at)


def test_a_round_that_is_over(tmp_path: Path) -> None:
    relay = prepared(tmp_path)
    relay.send("worker", WorkerEvent(run="r", task="prepare").model_dump())
    relay.drain()
    assert work(relay, task="train", version=1, rank=0).startswith("left: runs/r/weights/00000001.safetensors")
    assert relay.queued() == []


def test_a_file_that_is_lost_is_not_taken_for_swept(tmp_path: Path) -> None:
    """The round is the run's newest: leaving without a word would leave the run standing."""
    relay = prepared(tmp_path)
    with pytest.raises(Gone, match="partial/train-00000000-0000-01"):
        work(relay, task="train", rank=0, leg=1)


def test_validation_publishes_sums_alone(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("batch_norm"))
    relay.start()
    valid = Round(2, "valid")
    relay.drain_until(lambda: bool(ranks_in(relay.store.list(relay.layout.contributions), valid)))
    (rank,) = ranks_in(relay.store.list(relay.layout.contributions), valid)

    form = form_of(read_plan(relay.store, relay.layout), "valid")
    path = relay.layout.contribution(valid, rank)
    head, size = relay.store.reading(path, lambda reader: (form.read(reader)[0], reader.size))
    assert (head.rows, size) == (6, form.vector_at)
    assert np.isfinite(head.sums).all()


def test_the_handler_writes_what_it_was_asked_and_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    relay.step()
    monkeypatch.setenv("ESTAFETA_ROOT", relay.store.root)
    context = SimpleNamespace(
        aws_request_id="1234",
        function_name="estafeta-worker",
        log_group_name="g",
        log_stream_name="s",
        get_remaining_time_in_millis=lambda: 900_000,
    )
    answer = handler(WorkerEvent(run="r", task="train", rank=1).model_dump(), context)
    assert answer == {"done": "contributed"}
    asked, did = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert asked == {
        "run": "r",
        "request_id": "1234",
        "task": "train",
        "version": 0,
        "rank": 1,
        "leg": 0,
        "generation": 0,
    }
    traffic = did.pop("traffic")
    assert traffic["calls"]["create"] == traffic["calls"]["link"] == 1
    assert traffic["write_bytes"] > 0
    assert did == {"run": "r", "request_id": "1234", "done": "contributed"}
