"""A reader gets a published file whole, or is told that it is gone, though the server may forget an open file."""

from __future__ import annotations

import errno

import pytest

from estafeta.errors import Gone, StoreError
from estafeta.store.files import Reader
from estafeta.store.store import STALE_ATTEMPTS

from .conftest import Nfs, TwoClients
from .faults import Failing, StaleReads
from .test_publishing import chunks, content


def test_a_file_that_went_stale_is_opened_again(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.publish("f", chunks("A"), "A")
    files = StaleReads(b.files, STALE_ATTEMPTS - 1)
    assert b.through(files).read("f") == content("A")
    assert files.opened == STALE_ATTEMPTS


def test_but_not_for_ever(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.publish("f", chunks("A"), "A")
    files = StaleReads(b.files, 100)
    with pytest.raises(StoreError, match="f is listed") as caught:
        b.through(files).read("f")
    assert not isinstance(caught.value, Gone)
    assert files.opened == STALE_ATTEMPTS


def test_a_file_that_was_swept_is_gone(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.publish("f", chunks("A"), "A")
    assert b.looks_up("f")
    a.store.sweep("", ["f"])
    with pytest.raises(Gone, match="f is not in the store"):
        b.store.read("f")


def test_other_errors_are_passed_on(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.publish("f", chunks("A"), "A")
    with pytest.raises(OSError, match="Input/output"):
        b.through(Failing(b.files, "open", errno.EIO)).read("f")


def test_a_file_that_is_swept_while_it_is_read(two_clients: TwoClients) -> None:
    """A living server gives the complete file, a restarted one Gone; no server gives anything else."""
    a, b = two_clients
    a.store.publish("f", chunks("A"), "A")

    def use(reader: Reader) -> bytes:
        buffer = bytearray(reader.size)
        reader.readinto(memoryview(buffer)[:10], 0)
        a.store.sweep("", ["f"])
        reader.readinto(memoryview(buffer)[10:], 10)
        return bytes(buffer)

    assert b.store.reading("f", use) == content("A")
    assert b.all_names("") == []


def test_a_file_that_is_swept_while_it_is_read_before_a_restart(nfs: Nfs) -> None:
    a, b = nfs.clients()
    a.store.publish("f", chunks("A"), "A")

    def use(reader: Reader) -> None:
        a.store.sweep("", ["f"])
        nfs.server.restart()
        reader.readinto(bytearray(reader.size), 0)

    with pytest.raises(Gone):
        b.store.reading("f", use)


def test_a_file_that_is_replaced_while_it_is_read_before_a_restart(nfs: Nfs) -> None:
    a, b = nfs.clients()
    a.store.replace("f", chunks("old"))
    attempts = []

    def use(reader: Reader) -> bytes:
        attempts.append(reader)
        if len(attempts) == 1:
            a.store.replace("f", chunks("new"))
            nfs.server.restart()
        buffer = bytearray(reader.size)
        reader.readinto(buffer, 0)
        return bytes(buffer)

    assert b.store.reading("f", use) == content("new")
    assert len(attempts) == 2


def test_an_appended_file_grows_for_those_who_open_it_again(two_clients: TwoClients) -> None:
    a, b = two_clients
    a.store.append("events.jsonl", b'{"round": 0}\n')
    assert b.store.read("events.jsonl") == b'{"round": 0}\n'
    a.store.append("events.jsonl", b'{"round": 1}\n')
    assert b.store.read("events.jsonl") == b'{"round": 0}\n{"round": 1}\n'
