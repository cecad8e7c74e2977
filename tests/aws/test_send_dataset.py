"""A data set of this machine goes to a stack: what is missing there is sent, whatever was interrupted before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from estafeta import SGD, Job
from estafeta.aws.bucket import Bucket
from estafeta.client.backend import unwrap
from estafeta.client.send_dataset import in_silence, listing, send, send_missing
from estafeta.data.catalog import names, read_manifest, remove
from estafeta.errors import Corrupt, EnvironmentProblem, UsageError
from estafeta.functions.control import control
from estafeta.functions.verbs.receive import upload_of
from estafeta.protocol.layout import DatasetLayout
from estafeta.protocol.verbs import ControlEvent
from estafeta.store.store import Store

from .conftest import Interrupted, imported, invocation

NAME = "numbers"
BLOCKS = 10


class Stack:
    """`Backend`, as far as sending needs it, over a store of the test's own."""

    on = "aws"

    def __init__(self, store: Store, bucket: Bucket | None) -> None:
        self.store, self.bucket = store, bucket
        self.remaining_s = 300.0
        self.legs = 0

    def call(self, verb: ControlEvent) -> Any:
        self.legs += verb.verb == "receive"
        return unwrap(control(verb.model_dump(mode="json"), invocation(self.store, self.remaining_s)))


@pytest.fixture
def stack(there: Store, bucket: Bucket) -> Any:
    return Stack(there, bucket)


def job(**changes: Any) -> Job:
    return Job(
        **{"model": nn.Linear, "loss": nn.functional.mse_loss, "optimizer": SGD(lr=1), "dataset": NAME, **changes}
    )


def test_data_sets_that_a_job_names_are_sent(stack: Any, here: Store, bucket: Bucket) -> None:
    shown: list[tuple[str, int, int]] = []
    imported(here, "unused")
    imported(here, "held-out")
    send_missing(job(valid_dataset="held-out"), stack, here, lambda *facts: shown.append(facts))
    assert names(stack.store) == ["held-out", NAME]
    assert read_manifest(stack.store, NAME) == read_manifest(here, NAME)
    size = read_manifest(here, NAME).bytes
    sent = [(done, total) for what, done, total in shown if what == f"sending {NAME}"]
    assert (len(sent), sent[-1]) == (BLOCKS, (size, size))
    assert list(bucket.objects()) == [], "what has arrived is still in the bucket, and billed"


def test_data_set_on_aws_is_not_sent_again(stack: Any, here: Store) -> None:
    send(NAME, stack, here, in_silence)
    stack.bucket = Interrupted(stack.bucket, 0)
    send(NAME, stack, here, in_silence)
    assert stack.legs == 1
    remove(here, NAME)
    send_missing(job(), stack, here, in_silence)


def test_each_leg_brings_some(stack: Any, here: Store) -> None:
    stack.remaining_s = 0.0
    send(NAME, stack, here, in_silence)
    assert stack.legs == BLOCKS
    assert [found.token for found in listing(stack).datasets] == [read_manifest(here, NAME).token]


@pytest.mark.parametrize("after", [0, 3, BLOCKS])
def test_a_broken_line_costs_what_had_not_arrived(after: int, stack: Any, here: Store, bucket: Bucket) -> None:
    stack.bucket = first = Interrupted(bucket, after)
    with pytest.raises(EnvironmentProblem, match="the line is broken"):
        send(NAME, stack, here, in_silence)
    assert names(stack.store) == []
    assert len(list(bucket.objects())) == after
    stack.bucket = second = Interrupted(bucket, 1000)
    send(NAME, stack, here, in_silence)
    assert set(first.keys).isdisjoint(second.keys)
    assert len(first.keys) + len(second.keys) == BLOCKS + 1
    assert names(stack.store) == [NAME]


def test_a_block_that_is_damaged_here_is_refused_there(stack: Any, here: Store, bucket: Bucket) -> None:
    path = Path(here.absolute(DatasetLayout(NAME).block(read_manifest(here, NAME).attempt, 2)))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Corrupt, match="Block 2"):
        send(NAME, stack, here, in_silence)
    assert list(bucket.objects(upload_of(read_manifest(here, NAME).token))) == []
    path.write_bytes(content)
    send(NAME, stack, here, in_silence)
    assert names(stack.store) == [NAME]


def test_two_data_sets_of_one_name(stack: Any, here: Store, bucket: Bucket) -> None:
    other = imported(stack.store, NAME)
    with pytest.raises(UsageError, match="is not the one that AWS has") as caught:
        send_missing(job(), stack, here, in_silence)
    assert "`estafeta data rm numbers --on local`, or: `estafeta data rm numbers --on aws`" in caught.value.hint
    assert read_manifest(stack.store, NAME).token == other.token
    assert list(bucket.objects()) == []


def test_a_name_that_nobody_has(stack: Any, here: Store) -> None:
    with pytest.raises(UsageError, match="neither on this machine nor on AWS") as caught:
        send_missing(job(dataset="none"), stack, here, in_silence)
    assert "estafeta data import none SOURCE" in caught.value.hint


def test_nothing_is_asked_for_what_needs_no_sending(here: Store, there: Store) -> None:
    class Silent(Stack):
        def call(self, verb: ControlEvent) -> Any:
            raise AssertionError(verb)

    elsewhere: Any = Silent(there, None)
    send_missing(job(), elsewhere, here, in_silence)
    elsewhere.bucket = Bucket("b", None)  # type: ignore[arg-type]
    send_missing(job(dataset="digits", valid_dataset=lambda: ()), elsewhere, here, in_silence)
