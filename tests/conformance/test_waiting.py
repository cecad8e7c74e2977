"""A process that waits by listing sees a new file at the next look; one that polls a name does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from estafeta.errors import Gone
from estafeta.store.store import Backoff

from .conftest import TwoClients
from .faults import Interrupted

EVERY_SECOND = Backoff(first_s=1.0, factor=1.0)


def test_a_name_whose_absence_is_remembered_is_seen_at_the_next_look(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert not b.looks_up("f")
    a.clock.after(5.5, lambda: a.store.publish("f", [b"A"], "A"))
    assert b.store.wait("", lambda names: "f" in names, timeout_s=20, backoff=EVERY_SECOND) == frozenset({"f"})
    assert b.clock.monotonic() == 6
    assert b.store.read("f") == b"A"


def test_polling_its_name_would_be_late(two_clients: TwoClients, request: pytest.FixtureRequest) -> None:
    """The control of the test above: where memories last, the same wait by name takes at least half a minute."""
    a, b = two_clients
    assert not b.looks_up("f")
    a.clock.after(5.5, lambda: a.store.publish("f", [b"A"], "A"))
    while not b.looks_up("f"):
        b.clock.sleep(1)
    assert b.clock.monotonic() == (30 if request.node.callspec.params["two_clients"] == "nfs" else 6)


def test_a_directory_whose_absence_is_remembered_is_seen_at_the_next_look(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert b.store.list("runs/r/contributions") == frozenset()

    def begin() -> None:
        a.store.make_directories("runs/r/contributions")
        a.store.publish("runs/r/contributions/f", [b"A"], "A")

    a.clock.after(5.5, begin)
    seen = b.store.wait("runs/r/contributions", lambda names: "f" in names, timeout_s=20, backoff=EVERY_SECOND)
    assert seen == frozenset({"f"})
    assert b.clock.monotonic() == 6
    assert b.store.read("runs/r/contributions/f") == b"A"
    assert b.store.publish("runs/r/contributions/g", [b"B"], "B")


def test_a_directory_that_comes_and_goes_has_nothing(two_clients: TwoClients) -> None:
    a, b = two_clients
    scenes: list[Callable[[], object]] = [lambda: a.store.remove_tree("d"), lambda: a.store.make_directories("d"), int]
    files = Interrupted(b.files, "listdir", lambda: scenes.pop()())
    assert b.through(files).list("d") == frozenset()
    assert scenes == []


@pytest.mark.parametrize("path", ["f", "runs/r/f"])
def test_gone_is_never_said_of_what_is_published(two_clients: TwoClients, path: str) -> None:
    a, b = two_clients
    with pytest.raises(Gone, match=path):
        b.store.read(path)
    assert not b.store.exists(path)
    a.store.make_directories("runs/r")
    a.store.publish(path, [b"A"], "A")
    assert b.store.read(path) == b"A"
    assert b.store.exists(path)


def test_waiting_ends_at_the_deadline_with_a_last_look(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert b.store.wait("", bool, timeout_s=7.25, backoff=EVERY_SECOND) is None
    assert b.clock.monotonic() == 7.25
    a.clock.after(3.5, lambda: a.store.publish("f", [b"A"], "A"))
    assert b.store.wait("", bool, timeout_s=3.5, backoff=EVERY_SECOND) == frozenset({"f"})


def test_waiting_without_time_looks_once(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert b.store.wait("", bool, timeout_s=0) is None
    a.store.publish("f", [b"A"], "A")
    assert b.store.wait("", bool, timeout_s=0) == frozenset({"f"})
    assert b.clock.monotonic() == 0


def test_names_that_begin_with_a_dot_are_not_published(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.files.create(f"{a.root}/.tmp-1-f", [b"half"])
    a.files.create(f"{a.root}/.nfs0001", [b"removed"])
    assert b.store.list("") == frozenset()
    assert b.store.wait("", bool, timeout_s=1) is None
    a.store.publish("f", [b"A"], "A")
    assert b.store.list("") == {"f"}


def test_swept_file_is_not_listed(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.publish("f", [b"A"], "A")
    assert b.store.exists("f")
    a.store.sweep("", ["f"])
    assert not b.store.exists("f")
    with pytest.raises(Gone):
        b.store.read("f")
