"""Batches and validation splits that do not give every worker a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.layout import Round
from estafeta.protocol.listing import ranks_in
from estafeta.protocol.message import Head, form_of
from estafeta.protocol.snapshot import read_plan
from estafeta.store.files import Reader

from . import jobs
from .driver import Relay
from .reference import train_serially
from .specs import spec_of
from .test_agreement import SERIAL, assert_agree


def heads(relay: Relay, round_: Round) -> list[tuple[Head, bool]]:
    """By rank, the head of the contribution to a round, and whether there is a gradient."""
    form = form_of(read_plan(relay.store, relay.layout), round_.phase)

    def read(reader: Reader) -> tuple[Head, bool]:
        head, _ = form.read(reader)
        return head, reader.size > form.vector_at

    paths = [relay.layout.contribution(round_, rank) for rank in range(relay.spec.workers)]
    return [relay.store.reading(path, read) for path in paths]


def test_a_batch_of_fewer_rows_than_workers(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=8))
    relay.start()
    last = Round(2, "train")
    relay.drain_until(lambda: ranks_in(relay.store.list(relay.layout.contributions), last) == set(range(8)))
    found = heads(relay, last)
    assert [head.rows for head, _ in found] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert [head.parts for head, _ in found] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert [has_gradient for _, has_gradient in found] == [False, True] * 4
    relay.drain()
    assert_agree(relay, train_serially(jobs.plain, relay.spec, **SERIAL["plain"]))


def test_a_validation_split_of_fewer_rows_than_workers(tmp_path: Path) -> None:
    spec = spec_of("plain", workers=8, validation=0.1)
    relay = Relay(tmp_path, spec)
    relay.run()
    assert relay.control("status")["valid_rows"] == 5
    assert_agree(relay, train_serially(jobs.plain, spec, **SERIAL["plain"]))


@pytest.mark.parametrize("workers", [1, 3])
def test_no_validation(workers: int, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("not_validated", workers=workers))
    assert relay.run().state == "done"
    assert [set(record.metrics) for record in relay.epochs()] == [{"train_loss", "train_accuracy"}] * 2
    assert relay.spec.early_stopping == EarlyStopping(monitor="train_loss")
    assert not any(event.payload.get("task") == "valid" for event in relay.delivered)
    best = min(relay.epochs(), key=lambda record: record.metrics["train_loss"])
    assert relay.outcome().best_version == best.version


def test_validation_on_data_of_their_own(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("own_validation", workers=3))
    relay.run()
    status = relay.control("status")
    assert (status["train_rows"], status["valid_rows"]) == (48, 5)
    model = jobs.mlp()
    model.load_state_dict(load_file(tmp_path / relay.layout.export("final") / "model.safetensors"))
    inputs, target = (torch.as_tensor(array) for array in jobs.table(rows=5, seed=1))
    with torch.inference_mode():
        loss = float(jobs.plain.loss(model(inputs), target))
    np.testing.assert_allclose(relay.epochs()[-1].metrics["valid_loss"], loss, rtol=1e-6)
