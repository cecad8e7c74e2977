"""A rank that waits for other ranks' files finds them at the next look, and does not look more often than needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given

from estafeta import waiting
from estafeta.errors import Gone
from estafeta.store.arrivals import Arrivals
from estafeta.store.files import Reader
from estafeta.store.store import Store

from .conftest import Client, TwoClients
from .test_publishing import ORDERS, PROPERTY
from .turns import interleave


class GivenUp(Exception):
    pass


def never(_missing: object) -> None:
    """An alarm that never raises."""


def publish(client: Client, path: str) -> None:
    client.store.publish(path, [path.encode()], path)


def contents(readers: list[Reader]) -> list[bytes]:
    found = []
    for reader in readers:
        buffer = bytearray(reader.size)
        with reader:
            reader.readinto(buffer, 0)
        found.append(bytes(buffer))
    return found


@pytest.fixture
def outboxes(two_clients: TwoClients) -> list[str]:
    for directory in ("a", "b"):
        two_clients[0].store.make_directories(directory)
    return ["a", "b"]


def test_a_name_whose_absence_is_remembered_is_found(two_clients: TwoClients, outboxes: list[str]) -> None:
    a, b = two_clients
    assert not b.looks_up("a/1")
    a.clock.after(5.5, lambda: publish(a, "a/1"))
    publish(b, "b/1")
    arrivals = Arrivals(b.store, outboxes, never, writers=2)
    assert not arrivals.is_local
    assert contents(arrivals.collect(["a/1", "b/1"])) == [b"a/1", b"b/1"]
    assert b.clock.monotonic() <= 5.5 + waiting.ALARM_S


def test_files_are_found_in_whatever_order_they_come(two_clients: TwoClients, outboxes: list[str]) -> None:
    a, b = two_clients
    paths = [f"{directory}/{number}" for number in range(3) for directory in outboxes]
    for number, path in enumerate(reversed(paths)):
        a.clock.after(0.7 * number, partial(publish, a, path))
    arrivals = Arrivals(b.store, outboxes, never, writers=2)
    assert contents(arrivals.collect(paths)) == [path.encode() for path in paths]


def test_looks_are_few_in_rounds_that_are_alike(two_clients: TwoClients, outboxes: list[str]) -> None:
    a, b = two_clients
    arrivals = Arrivals(b.store, outboxes, never, writers=2)
    looks = []
    for number in range(20):
        before, began = arrivals.looks, a.clock.monotonic()
        a.clock.after(2.0, partial(publish, a, f"a/{number}"))
        arrivals.collect([f"a/{number}"])[0].close()
        looks.append(arrivals.looks - before)
        assert a.clock.monotonic() - began <= 2.0 + 2 * waiting.ALARM_S
    assert sum(looks[1:]) / 19 < looks[0] / 2


def test_the_alarm_rings_while_nothing_comes(two_clients: TwoClients, outboxes: list[str]) -> None:
    a, b = two_clients
    rang = []

    def alarm(_missing: object) -> None:
        rang.append(b.clock.monotonic())
        if rang[-1] > 20:
            raise GivenUp

    publish(a, "a/1")
    with pytest.raises(GivenUp):
        Arrivals(b.store, outboxes, alarm, writers=2).collect(["a/1", "b/1"])
    assert max(later - earlier for earlier, later in itertools.pairwise(rang)) <= waiting.ALARM_S * 1.001
    assert a.store.list("a") == {"1"}


def test_retired_message_is_gone(two_clients: TwoClients, outboxes: list[str]) -> None:
    a, b = two_clients
    publish(a, "a/1")
    publish(a, "b/1")
    arrivals = Arrivals(b.store, outboxes, never, writers=2)
    assert contents(arrivals.open(["a/1", "b/1"])) == [b"a/1", b"b/1"]
    a.store.sweep("b", ["1"])
    with pytest.raises(Gone, match="b/1"):
        arrivals.open(["a/1", "b/1"])


@PROPERTY
@given(order=ORDERS)
def test_two_that_wait_for_each_other_meet(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int]
) -> None:
    """No rank misses a round, in any order and whatever the client remembers of the directories."""
    directories = [new_directory(), new_directory()]

    def go(store: Store, own: str) -> list[bytes]:
        arrivals = Arrivals(store, directories, never, writers=2)
        seen: list[bytes] = []
        for number in range(3):
            path = f"{own}/{number}"
            store.publish(path, [path.encode()], path)
            seen += contents(arrivals.collect([f"{directory}/{number}" for directory in directories]))
        return seen

    a, b = two_clients
    one, other = interleave(order, lambda: go(a.store, directories[0]), lambda: go(b.store, directories[1]))
    assert one == other == [f"{directory}/{number}".encode() for number in range(3) for directory in directories]
