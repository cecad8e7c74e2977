"""Resident ranks on two machines come to the same bits in any order, and after any loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estafeta.errors import Gone
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.partition import cut
from estafeta.residents.exchange import Exchange
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array

from .conftest import Client, Nfs, TwoClients
from .faults import LostReplies
from .test_publishing import ORDERS, PROPERTY
from .turns import interleave

SIZE, ROUNDS = 300, 3
SLICES = cut(SIZE, 2, grain=1)


def gradient_of(rank: int, version: int) -> Array:
    numbers = np.random.default_rng([rank, version])
    vector: Array = (numbers.standard_normal(SIZE) * 10.0 ** numbers.integers(-4, 4, SIZE)).astype(np.float32)
    return vector


def expected() -> Array:
    parameters = np.zeros(SIZE, np.float32)
    for version in range(ROUNDS):
        parameters += gradient_of(0, version) + gradient_of(1, version)
    return parameters


def never(_missing: object) -> None:
    """An alarm that never raises."""


def begin(client: Client, run: str) -> RunLayout:
    layout = RunLayout(run)
    for directory in layout.directories(2):
        client.store.make_directories(directory)
    return layout


def live(store: Store, layout: RunLayout, rank: int, *, token: str = "t", rounds: int = ROUNDS) -> Array:
    """Some rounds of a sharded rank that adds the sum of all gradients to its parameters."""
    exchange = Exchange(
        store,
        layout,
        rank=rank,
        workers=2,
        size=SIZE,
        slices=SLICES,
        sums=("loss",),
        buffers=(),
        token=f"{token}-{rank}",
        alarm=never,
    )
    parameters, total, own = np.zeros(SIZE, np.float32), np.empty(SIZE, np.float32), SLICES[rank]
    for version in range(rounds):
        round_ = Round(version, "train")
        outgoing = exchange.outgoing()
        outgoing.put(0, 0, gradient_of(rank, version))
        exchange.contribute(round_, outgoing, rows=1, sums=(float(rank),))
        with exchange.gather(round_) as gathered:
            exchange.retire(version, version)
            gathered.add_up(rank, own.first, total[own.first : own.last])
        parameters[own.first : own.last] += total[own.first : own.last]
        exchange.publish_slice(version + 1, parameters)
        exchange.fetch_slices(version + 1, parameters)
    exchange.close()
    return parameters


@settings(PROPERTY, max_examples=20)
@given(order=ORDERS, losses=st.lists(st.booleans(), max_size=20))
def test_two_ranks_come_to_the_same_bits(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int], losses: list[bool]
) -> None:
    layout = begin(two_clients[0], new_directory())
    fate = iter(losses)
    a, b = (c.through(LostReplies(c.files, lambda call: next(fate, False))) for c in two_clients)
    one, other = interleave(order, lambda: live(a, layout, 0), lambda: live(b, layout, 1))
    assert one.tobytes() == other.tobytes() == expected().tobytes()
    for rank, client in enumerate(two_clients):
        left = client.all_names(layout.outbox(rank))
        assert left == [f"gradient-{ROUNDS - 1:08d}", f"slice-{ROUNDS:08d}"], "and nothing that is not published"


@settings(PROPERTY, max_examples=20)
@given(order=ORDERS)
def test_two_incarnations_of_a_rank_publish_each_message_once(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int]
) -> None:
    """One incarnation is slow, and has been replaced on the other machine. In the first round both are at work."""
    layout = begin(two_clients[0], new_directory())
    a, b = (client.store for client in two_clients)
    found = interleave(
        order,
        lambda: live(a, layout, 0, rounds=1),
        lambda: live(b, layout, 0, token="newer", rounds=1),
        lambda: live(b, layout, 1, rounds=1),
    )
    first = gradient_of(0, 0) + gradient_of(1, 0)
    assert [parameters.tobytes() for parameters in found] == [first.tobytes()] * 3
    assert a.list(layout.outbox(0)) == {"gradient-00000000", "slice-00000001"}


def test_a_contribution_that_is_retired_while_it_is_read_before_a_restart(
    nfs: Nfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that is rebuilt from the redo log then has to look for a newer version, and not fail."""
    a, b = nfs.clients()
    layout = begin(a, "r")
    interleave([0, 1] * 200, lambda: live(a.store, layout, 0), lambda: live(a.store, layout, 1))
    late = Exchange(
        b.store,
        layout,
        rank=1,
        workers=2,
        size=SIZE,
        slices=SLICES,
        sums=("loss",),
        buffers=(),
        token="late",
        alarm=never,
    )
    opened = late.arrivals.open

    def open_long_before(paths: Sequence[str]) -> list[Reader]:
        readers = opened(paths)
        a.store.sweep(layout.outbox(0), a.store.list(layout.outbox(0)))
        nfs.server.restart()
        return readers

    monkeypatch.setattr(late.arrivals, "open", open_long_before)
    with pytest.raises(Gone, match="of rank 0 for version 2 has been retired"):
        late.gather(Round(ROUNDS - 1, "train"), wait=False)
