"""A duty has one holder per generation, and the last to arrive notices that all have arrived."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from estafeta.store.store import claim_name

from .conftest import Client, TwoClients
from .test_publishing import ORDERS, PROPERTY
from .turns import interleave


def test_a_generation_has_one_holder(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert a.store.claim("", "merge", generation=0, token="A")
    assert not b.store.claim("", "merge", generation=0, token="B")
    assert a.store.list("") == {claim_name("merge", 0)}


def test_its_holder_may_ask_again(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert a.store.claim("", "merge", generation=0, token="A")
    assert a.store.claim("", "merge", generation=0, token="A")
    assert b.store.claim("", "merge", generation=0, token="A")
    assert not b.store.claim("", "merge", generation=0, token="B")


def test_the_next_generation_takes_over_and_all_can_see_it(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert a.store.claim("", "merge", generation=0, token="A")
    assert b.store.claim("", "merge", generation=1, token="B")
    assert not a.store.claim("", "merge", generation=1, token="A")
    assert a.store.claim("", "merge", generation=0, token="A")
    assert a.store.list("") == b.store.list("") == {"merge.g00", "merge.g01"}


def test_other_duties_are_other_claims(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert a.store.claim("", "rank-0", generation=0, token="A")
    assert b.store.claim("", "rank-1", generation=0, token="B")


@PROPERTY
@given(order=ORDERS)
def test_two_that_claim_at_once_do_not_both_hold(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int]
) -> None:
    a, b = two_clients
    directory = new_directory()

    def claim(client: Client, token: str) -> list[bool]:
        return [client.store.claim(directory, "merge", generation=g, token=token) for g in range(3)]

    held = interleave(order, lambda: claim(a, "A"), lambda: claim(b, "B"))
    assert [first + second for first, second in zip(*held, strict=True)] == [1, 1, 1]


def arrive(client: Client, directory: str, rank: str) -> bool:
    """Publish one's own file, then look whether all are there."""
    client.store.publish(f"{directory}/{rank}", [rank.encode()], rank)
    return client.store.list(directory) == {"A", "B"}


def arrive_looking_first(client: Client, directory: str, rank: str) -> bool:
    """Look first, then publish: the wrong order."""
    others = client.store.list(directory)
    client.store.publish(f"{directory}/{rank}", [rank.encode()], rank)
    return others | {rank} == {"A", "B"}


def remember_absence(client: Client, directory: str) -> None:
    assert client.store.list(directory) == frozenset()
    assert not client.looks_up(f"{directory}/A")
    assert not client.looks_up(f"{directory}/B")


@PROPERTY
@given(order=ORDERS, polled=st.booleans())
def test_the_last_to_arrive_sees_all(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int], polled: bool
) -> None:
    a, b = two_clients
    directory = new_directory()
    if polled:
        remember_absence(a, directory)
        remember_absence(b, directory)
    noticed = interleave(order, lambda: arrive(a, directory, "A"), lambda: arrive(b, directory, "B"))
    assert any(noticed)


def test_nobody_would_notice_who_looks_before_publishing(two_clients: TwoClients) -> None:
    """The control of the test above: there is an order in which it fails."""
    a, b = two_clients
    a.store.make_directories("d")
    remember_absence(a, "d")
    remember_absence(b, "d")
    noticed = interleave([], lambda: arrive_looking_first(a, "d", "A"), lambda: arrive_looking_first(b, "d", "B"))
    assert not any(noticed)


@PROPERTY
@given(order=ORDERS)
def test_one_of_those_who_notice_gets_the_duty(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int]
) -> None:
    a, b = two_clients
    directory, claims = new_directory(), new_directory()

    def work(client: Client, rank: str) -> bool:
        return arrive(client, directory, rank) and client.store.claim(claims, "merge", generation=0, token=rank)

    assert sum(interleave(order, lambda: work(a, "A"), lambda: work(b, "B"))) == 1
