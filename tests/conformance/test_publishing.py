"""A published file appears complete, under its final name, once; and no other file stays behind."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estafeta.errors import Gone
from estafeta.store.store import Store

from .conftest import Nfs, TwoClients
from .faults import Failing, FullDisk
from .turns import interleave

ORDERS = st.lists(st.integers(0, 5), max_size=40)
"""Number of the machine whose turn it is."""

PROPERTY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def chunks(token: str) -> list[bytes]:
    return [f"{token}\n".encode(), b"0123456789" * 20, f"{token} ends\n".encode()]


def content(token: str) -> bytes:
    return b"".join(chunks(token))


def test_other_clients_read_what_was_published(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.make_directories("runs/r")
    assert a.store.publish("runs/r/f", chunks("A"), "A")
    assert b.store.list("runs/r") == {"f"}
    assert b.store.read("runs/r/f") == content("A")


def test_second_publisher_loses_and_reads_the_first(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert not b.looks_up("f")
    assert a.store.publish("f", chunks("A"), "A")
    assert not b.store.publish("f", chunks("B"), "B")
    assert b.store.read("f") == a.store.read("f") == content("A")


def test_the_same_writer_may_publish_again(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert a.store.publish("f", chunks("A"), "A")
    assert b.store.publish("f", chunks("A"), "A")


def test_nothing_else_is_left_behind(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.publish("f", chunks("A"), "A")
    b.store.publish("f", chunks("B"), "B")
    a.store.replace("g", chunks("A"))
    b.store.replace("g", chunks("B"))
    assert a.all_names("") == ["f", "g"]


def publish(store: Store) -> None:
    store.publish("f", chunks("A"), "A")


def replace(store: Store) -> None:
    store.replace("f", chunks("A"))


@pytest.mark.parametrize("write", [publish, replace])
def test_a_full_disk_leaves_nothing(two_clients: TwoClients, write: Callable[[Store], None]) -> None:
    a, b = two_clients
    with pytest.raises(OSError, match="No space") as caught:
        write(a.through(FullDisk(a.files)))
    assert caught.value.errno == errno.ENOSPC
    assert b.all_names("") == []
    assert b.store.publish("f", chunks("B"), "B")


def test_a_full_disk_leaves_the_file_that_was_to_be_replaced(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.replace("f", chunks("old"))
    with pytest.raises(OSError, match="No space"):
        a.through(FullDisk(a.files)).replace("f", chunks("new"))
    assert b.all_names("") == ["f"]
    assert b.store.read("f") == content("old")


@pytest.mark.parametrize(("write", "call"), [(publish, "link"), (replace, "rename")])
def test_an_error_of_the_last_step_leaves_nothing(
    two_clients: TwoClients, write: Callable[[Store], None], call: str
) -> None:
    a, b = two_clients
    with pytest.raises(OSError, match="Input/output"):
        write(a.through(Failing(a.files, call, errno.EIO)))
    assert b.all_names("") == []


def look_again_and_again(store: Store, directory: str, seen: set[bytes]) -> None:
    """Read all listed files, six times."""
    for _ in range(6):
        seen.update(store.read(f"{directory}/{name}") for name in store.list(directory))


@PROPERTY
@given(order=ORDERS)
def test_one_of_two_publishes_and_nobody_sees_less_than_all(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int]
) -> None:
    a, b = two_clients
    directory = new_directory()
    path = f"{directory}/f"
    a.looks_up(path)
    b.looks_up(path)
    seen: set[bytes] = set()
    a_won, b_won, _ = interleave(
        order,
        lambda: a.store.publish(path, chunks("A"), "A"),
        lambda: b.store.publish(path, chunks("B"), "B"),
        lambda: look_again_and_again(b.store, directory, seen),
    )
    assert a_won is not b_won
    assert b.store.read(path) == content("A" if a_won else "B")
    assert seen <= {b.store.read(path)}
    assert a.all_names(directory) == ["f"]


@PROPERTY
@given(order=ORDERS)
def test_a_replaced_file_is_never_seen_torn_or_missing(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int]
) -> None:
    a, b = two_clients
    directory = new_directory()
    path = f"{directory}/f"
    b.store.replace(path, chunks("old"))

    def write() -> None:
        for token in ("A1", "A2", "A3"):
            a.store.replace(path, chunks(token))

    def read() -> None:
        seen.update(b.store.read(path) for _ in range(6))

    seen: set[bytes] = set()
    interleave(order, write, read)
    assert seen <= {content(token) for token in ("old", "A1", "A2", "A3")}
    assert b.store.read(path) == content("A3")
    assert a.all_names(directory) == ["f"]


def test_a_published_file_has_further_names_of_which_each_is_as_good(two_clients: TwoClients) -> None:
    a, b = two_clients
    for directory in ("here", "there"):
        a.store.make_directories(directory)
    assert not b.looks_up("there/f")
    a.store.publish("here/f", chunks("A"), "A")
    a.store.share("here/f", "there/f")
    a.store.share("here/f", "there/f")  # again, as after a lost reply
    a.store.sweep("here", ["f"])
    assert b.store.list("there") == {"f"}
    assert b.store.read("there/f") == content("A")
    with pytest.raises(Gone):
        b.store.share("here/f", "there/g")
    assert a.all_names("there") == ["f"]


def test_a_file_created_in_place_would_be_seen_short(nfs: Nfs) -> None:
    a, b = nfs.clients()
    order = ([0] + [1] * 9) * 9
    path = f"{a.root}/f"
    seen: set[bytes] = set()
    interleave(order, lambda: a.files.create(path, chunks("A")), lambda: look_again_and_again(b.store, "", seen))
    assert b"" in seen
