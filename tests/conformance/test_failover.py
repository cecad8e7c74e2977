"""The store recognises a call that has succeeded, though it is refused because its first reply was lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta.store.store import Store

from .conftest import Client, Nfs, TwoClients
from .faults import RESENT, Interrupted, LostReplies
from .test_publishing import ORDERS, PROPERTY, chunks, content
from .turns import interleave


def losing(client: Client, *calls: str) -> Store:
    """The client's store when the reply to every such call is lost."""
    return client.through(LostReplies(client.files, lambda call: call in calls))


@pytest.mark.parametrize(
    ("call", "refused"),
    [
        (lambda files: files.link("/efs/f", "/efs/g"), FileExistsError),
        (lambda files: files.mkdir("/efs/d"), FileExistsError),
        (lambda files: files.rename("/efs/f", "/efs/g"), FileNotFoundError),
        (lambda files: files.unlink("/efs/f"), FileNotFoundError),
    ],
)
def test_a_lost_reply_is_a_false_refusal(nfs: Nfs, call: Callable[[LostReplies], None], refused: type[OSError]) -> None:
    nfs.a.create("/efs/f", [b"x"])
    with pytest.raises(refused):
        call(LostReplies(nfs.a, lambda call: True))


def test_ones_own_publication_is_known_by_its_token(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert losing(a, "link").publish("f", chunks("A"), "A")
    assert b.all_names("") == ["f"]
    assert b.store.read("f") == content("A")


def test_anothers_publication_is_known_too(two_clients: TwoClients) -> None:
    a, b = two_clients
    b.store.publish("f", chunks("B"), "B")
    assert not losing(a, "unlink").publish("f", chunks("A"), "A")
    assert a.store.read("f") == content("B")
    assert a.all_names("") == ["f"]


def test_a_lost_reply_to_removing_the_temporary_name_is_no_error(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert losing(a, "link", "unlink").publish("f", chunks("A"), "A")
    assert b.all_names("") == ["f"]


def test_making_directories(two_clients: TwoClients) -> None:
    a, b = two_clients
    losing(a, "mkdir").make_directories("runs/r/weights")
    assert b.store.list("runs/r") == {"weights"}


def test_replacing(two_clients: TwoClients) -> None:
    a, b = two_clients
    b.store.replace("f", chunks("old"))
    losing(a, "rename").replace("f", chunks("A"))
    assert b.store.read("f") == content("A")
    assert b.all_names("") == ["f"]


@PROPERTY
@given(order=ORDERS, losses=st.lists(st.booleans(), max_size=6))
def test_two_replace_whatever_is_lost(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int], losses: list[bool]
) -> None:
    a, b = two_clients
    directory = new_directory()
    path = f"{directory}/f"
    fate = iter(losses)
    flaky_a, flaky_b = (c.through(LostReplies(c.files, lambda call: next(fate, False))) for c in two_clients)
    interleave(order, lambda: flaky_a.replace(path, chunks("A")), lambda: flaky_b.replace(path, chunks("B")))
    assert a.store.read(path) == b.store.read(path)
    assert a.store.read(path) in (content("A"), content("B"))
    assert a.all_names(directory) == ["f"]


def test_replacing_in_a_directory_that_goes_away_is_an_error(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.make_directories("d")
    files = Interrupted(a.files, "rename", lambda: b.store.remove_tree("d"))
    with pytest.raises(FileNotFoundError):
        a.through(files).replace("d/f", chunks("A"))


def test_moving(two_clients: TwoClients) -> None:
    a, b = two_clients
    b.store.publish("f", chunks("B"), "B")
    assert losing(a, "rename").move("f", "mine")
    assert b.store.list("") == {"mine"}
    assert b.store.read("mine") == content("B")


def test_moving_what_is_not_there(two_clients: TwoClients) -> None:
    a, b = two_clients
    b.store.publish("f", chunks("B"), "B")
    assert b.store.move("f", "b-has-it")
    assert not losing(a, "rename").move("f", "a-has-it")
    assert a.store.list("") == {"b-has-it"}


def test_sweeping_and_removing(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.make_directories("runs/r")
    a.store.publish("runs/r/f", chunks("A"), "A")
    a.store.publish("runs/r/g", chunks("A"), "A")
    losing(b, *RESENT).sweep("runs/r", ["f"])
    assert a.store.list("runs/r") == {"g"}
    losing(b, *RESENT).remove_tree("runs")
    assert a.store.list("") == frozenset()


@PROPERTY
@given(order=ORDERS, losses=st.lists(st.booleans(), max_size=8))
def test_one_of_two_publishes_whatever_is_lost(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int], losses: list[bool]
) -> None:
    a, b = two_clients
    directory = new_directory()
    path = f"{directory}/f"
    fate = iter(losses)
    flaky_a, flaky_b = (c.through(LostReplies(c.files, lambda call: next(fate, False))) for c in two_clients)
    a_won, b_won = interleave(
        order, lambda: flaky_a.publish(path, chunks("A"), "A"), lambda: flaky_b.publish(path, chunks("B"), "B")
    )
    assert a_won is not b_won
    assert b.store.read(path) == content("A" if a_won else "B")
    assert a.all_names(directory) == ["f"]


@PROPERTY
@given(order=ORDERS, losses=st.lists(st.booleans(), max_size=4))
def test_one_of_two_moves_it_away_whatever_is_lost(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int], losses: list[bool]
) -> None:
    a, b = two_clients
    directory = new_directory()
    a.store.publish(f"{directory}/f", chunks("A"), "A")
    assert b.store.exists(f"{directory}/f")
    fate = iter(losses)
    flaky_a, flaky_b = (c.through(LostReplies(c.files, lambda call: next(fate, False))) for c in two_clients)
    a_has, b_has = interleave(
        order,
        lambda: flaky_a.move(f"{directory}/f", f"{directory}/a-has"),
        lambda: flaky_b.move(f"{directory}/f", f"{directory}/b-has"),
    )
    assert a_has is not b_has
    assert b.store.list(directory) == {"a-has" if a_has else "b-has"}


def test_a_whole_life_on_a_server_that_loses_every_second_reply(two_clients: TwoClients) -> None:
    chance = random.Random(7)
    a, b = (c.through(LostReplies(c.files, lambda call: chance.random() < 0.5)) for c in two_clients)
    for round_ in range(20):
        run = f"runs/{round_}"
        a.make_directories(run)
        b.make_directories(run)
        assert a.publish(f"{run}/A", chunks("A"), "A")
        assert b.publish(f"{run}/B", chunks("B"), "B")
        assert a.list(run) == b.list(run) == {"A", "B"}
        assert a.claim(run, "merge", generation=0, token="A")
        assert not b.claim(run, "merge", generation=0, token="B")
        a.replace(f"{run}/beat", chunks("A"))
        assert b.read(f"{run}/beat") == content("A")
        assert b.move(f"{run}/A", f"{run}/B-took-A")
        b.sweep(run, ["B-took-A", "B"])
        assert a.list(run) == {"merge.g00", "beat"}
        a.remove_tree(run)
        assert b.list("runs") == frozenset()
