"""A removal may be repeated, may meet other removals or writers, and may leave files that NFS still needs."""

from __future__ import annotations

import errno

import pytest

from .conftest import Nfs, TwoClients
from .faults import Failing, Interrupted


def publish_all(two_clients: TwoClients, *paths: str) -> None:
    a, _ = two_clients
    for path in paths:
        a.store.make_directories(path.rpartition("/")[0])
        a.store.publish(path, [b"A"], "A")


def test_sweeping_removes_what_is_named_and_no_more(two_clients: TwoClients) -> None:
    a, b = two_clients
    publish_all(two_clients, "d/0", "d/1", "d/2")
    b.store.sweep("d", ["0", "2", "never-there"])
    assert a.store.list("d") == {"1"}


def test_two_may_sweep_the_same(two_clients: TwoClients) -> None:
    a, b = two_clients
    publish_all(two_clients, "d/0", "d/1")
    assert b.looks_up("d/0")
    a.store.sweep("d", ["0", "1"])
    b.store.sweep("d", ["0", "1"])
    assert b.store.list("d") == frozenset()


def test_an_error_of_sweeping_is_passed_on(two_clients: TwoClients) -> None:
    a, _ = two_clients
    publish_all(two_clients, "d/0")
    with pytest.raises(OSError, match="Input/output"):
        a.through(Failing(a.files, "unlink", errno.EIO)).sweep("d", ["0"])


def test_a_tree_goes_with_what_dead_writers_left(two_clients: TwoClients) -> None:
    a, b = two_clients
    publish_all(two_clients, "runs/r/weights/v1", "runs/r/legs/0.g00", "runs/r/run.json", "runs/s/run.json")
    a.files.create(f"{a.root}/runs/r/weights/.tmp-0-v2", [b"half"])
    b.store.remove_tree("runs/r")
    assert a.all_names("runs") == ["s"]
    b.store.remove_tree("runs/r")
    assert a.store.list("runs/s") == {"run.json"}


def test_a_new_tree_goes_though_its_absence_is_remembered(two_clients: TwoClients) -> None:
    a, b = two_clients
    assert b.store.list("runs/r") == frozenset()
    assert not b.looks_up("runs/r")
    publish_all(two_clients, "runs/r/f")
    b.store.remove_tree("runs/r")
    assert a.store.list("runs") == frozenset()


def test_a_tree_in_which_somebody_still_writes_stays(two_clients: TwoClients) -> None:
    a, b = two_clients
    publish_all(two_clients, "runs/r/d/f")
    files = Interrupted(b.files, "rmdir", lambda: a.store.publish("runs/r/d/late", [b"A"], "A"))
    b.through(files).remove_tree("runs/r")
    assert a.store.list("runs/r/d") == {"late"}
    b.store.remove_tree("runs/r")
    assert a.store.list("runs") == frozenset()


def test_two_may_remove_the_same_tree(two_clients: TwoClients) -> None:
    a, b = two_clients
    publish_all(two_clients, "runs/r/d/f", "runs/r/g")
    files = Interrupted(b.files, "rmdir", lambda: a.store.remove_tree("runs/r"))
    b.through(files).remove_tree("runs/r")
    assert a.store.list("runs") == frozenset()


def test_an_error_of_removing_is_passed_on(two_clients: TwoClients) -> None:
    a, _ = two_clients
    publish_all(two_clients, "runs/r/f")
    for call in ("unlink", "rmdir"):
        with pytest.raises(OSError, match="Input/output"):
            a.through(Failing(a.files, call, errno.EIO)).remove_tree("runs/r")


def test_a_tree_of_which_a_file_is_open_here_goes_when_it_is_closed(nfs: Nfs) -> None:
    a, b = nfs.clients()
    publish_all((a, b), "runs/r/f")
    with a.files.open(f"{a.root}/runs/r/f"):
        a.store.remove_tree("runs/r")
        a.store.remove_tree("runs/r")
        assert b.store.list("runs/r") == frozenset()
        (kept,) = b.all_names("runs/r")
        assert kept.startswith(".nfs")
    a.store.remove_tree("runs/r")
    assert b.store.list("runs") == frozenset()


def test_a_file_that_another_has_open_does_not_keep_the_tree(nfs: Nfs) -> None:
    a, b = nfs.clients()
    publish_all((a, b), "runs/r/f")
    with b.files.open(f"{b.root}/runs/r/f") as reader:
        b.store.sweep("runs/r", ["f"])
        assert len(a.all_names("runs/r")) == 1
        a.store.remove_tree("runs/r")
        assert a.store.list("runs") == frozenset()
        assert reader.readinto(bytearray(1), 0) == 1


def test_a_directory_goes_if_it_is_empty_and_stays_if_not(nfs: Nfs) -> None:
    a, b = nfs.clients()
    publish_all((a, b), "runs/r/f")
    b.store.remove_if_empty("runs/r")
    assert a.store.list("runs/r") == {"f"}
    a.store.sweep("runs/r", ["f"])
    b.store.remove_if_empty("runs/r")
    assert a.store.list("runs") == frozenset()
    b.store.remove_if_empty("runs/r")
