"""The store on its own, call by call. `tests/conformance` has its promises to several machines."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from conformance.clock import VirtualClock
from conformance.interposed import Interposed
from estafeta.errors import Gone
from estafeta.store.files import Files, OsFiles, Reader
from estafeta.store.store import TEMPORARY, Backoff, Store, claim_name, new_token

T = TypeVar("T")


class Recorded(Interposed):
    """Files that record each call with its name."""

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self.calls: list[tuple[str, str]] = []

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        self.calls.append((call, os.path.basename(path)))
        return carry_out()


@pytest.fixture
def files() -> Recorded:
    return Recorded(OsFiles())


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(tmp_path: Path, files: Recorded, clock: VirtualClock) -> Store:
    return Store(tmp_path, files, clock)


def test_publishing_writes_and_closes_under_another_name_before_it_links(store: Store, files: Recorded) -> None:
    store.publish("f", [b"A"], "A")
    (_, temporary), *_ = files.calls
    assert temporary.startswith(TEMPORARY)
    assert files.calls == [("create", temporary), ("link", "f"), ("unlink", temporary)]


def test_each_publication_has_a_temporary_name_of_its_own(store: Store, files: Recorded) -> None:
    store.publish("f", [b"A"], "A")
    store.publish("f", [b"A"], "A")
    assert len({name for call, name in files.calls if call == "create"}) == 2


def test_the_temporary_name_is_in_the_same_directory(tmp_path: Path, store: Store) -> None:
    """A link cannot cross file systems, and `remove_tree` finds it there."""
    store.make_directories("runs/r")

    class Crash(Exception):
        pass

    class Crashing(Interposed):
        def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
            if call in ("link", "unlink"):
                raise Crash
            return carry_out()

    with pytest.raises(Crash):
        Store(tmp_path, Crashing(OsFiles())).publish("runs/r/f", [b"A"], "A")
    (name,) = os.listdir(tmp_path / "runs/r")
    assert name.startswith(TEMPORARY)
    assert store.list("runs/r") == frozenset()


@pytest.mark.parametrize("first", [b"", b"B", b"a"])
def test_a_publication_without_its_token_is_refused(store: Store, files: Recorded, first: bytes) -> None:
    with pytest.raises(ValueError, match="'A' must stand in the first chunk of f"):
        store.publish("f", [first, b"A"], "A")
    assert files.calls == []


def test_replacing_writes_and_closes_under_another_name_before_it_renames(store: Store, files: Recorded) -> None:
    store.replace("f", [b"A"])
    (_, temporary), *_ = files.calls
    assert temporary.startswith(TEMPORARY)
    assert files.calls == [("create", temporary), ("rename", "f")]


def test_an_unchanged_directory_costs_one_call(store: Store, files: Recorded) -> None:
    store.list("")
    assert [call for call, _ in files.calls] == ["listdir"]


def test_reading_costs_one_opening(store: Store, files: Recorded) -> None:
    store.publish("f", [b"A"], "A")
    files.calls.clear()
    store.read("f")
    assert files.calls == [("open", "f")]


def test_directories_may_be_there_in_part(tmp_path: Path, store: Store) -> None:
    (tmp_path / "runs").mkdir()
    store.make_directories("runs/r/weights")
    store.make_directories("runs/r/weights")
    assert (tmp_path / "runs/r/weights").is_dir()


def test_a_directory_below_a_file_is_an_error(store: Store) -> None:
    store.publish("f", [b"A"], "A")
    with pytest.raises(NotADirectoryError):
        store.make_directories("f/d")


def test_publishing_into_no_directory_is_an_error(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.publish("no/f", [b"A"], "A")


def test_a_root_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "not-there")
    assert store.list("") == frozenset()
    with pytest.raises(Gone):
        store.read("f")


def test_reading_hands_over_the_size_and_any_part(store: Store) -> None:
    store.publish("f", [b"0123", b"456789"], "0")

    def middle(reader: Reader) -> tuple[int, bytes]:
        buffer = bytearray(4)
        reader.readinto(buffer, 3)
        return reader.size, bytes(buffer)

    assert store.reading("f", middle) == (10, b"3456")


def test_an_error_of_the_reading_code_is_its_own(store: Store) -> None:
    store.publish("f", [b"A"], "A")
    attempts: list[Reader] = []

    def use(reader: Reader) -> None:
        attempts.append(reader)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        store.reading("f", use)
    assert len(attempts) == 1


def test_pauses_grow_to_the_longest_and_end_at_the_deadline(store: Store, files: Recorded, clock: VirtualClock) -> None:
    looks: list[float] = []

    def never(names: frozenset[str]) -> bool:
        looks.append(clock.monotonic())
        return False

    assert store.wait("", never, timeout_s=20, backoff=Backoff(first_s=1, factor=2, longest_s=5)) is None
    assert looks == [0, 1, 3, 7, 12, 17, 20]
    assert len(files.calls) == len(looks)


def test_a_wait_by_default_looks_soon_and_then_once_a_second(store: Store, clock: VirtualClock) -> None:
    looks: list[float] = []

    def never(names: frozenset[str]) -> bool:
        looks.append(clock.monotonic())
        return False

    assert store.wait("", never, timeout_s=100) is None
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert pauses[0] <= 0.01
    assert max(pauses) <= 1.000001
    assert len(looks) < 130


def test_the_listing_that_was_ready_is_returned(store: Store, clock: VirtualClock) -> None:
    for name in ("0", "1", "2"):
        clock.after(int(name) + 0.5, partial(store.publish, name, [b"A"], "A"))
    ready = store.wait("", lambda names: len(names) >= 2, timeout_s=10, backoff=Backoff(1, 1, 1))
    assert ready == frozenset({"0", "1"})


def test_a_claim_says_who_holds_it(store: Store) -> None:
    assert store.claim("", "merge", generation=3, token="A")
    assert store.read(claim_name("merge", 3)) == b'{"holder": "A", "generation": 3}\n'


def test_claims_of_one_duty_sort_by_generation() -> None:
    names = [claim_name("merge", generation) for generation in range(100)]
    assert sorted(names) == names
    assert names[0] == "merge.g00"


def test_tokens_differ() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {32}


def test_names_from_a_sweep_are_relative_to_its_directory(store: Store) -> None:
    store.make_directories("d")
    store.publish("f", [b"A"], "A")
    store.publish("d/f", [b"A"], "A")
    store.sweep("d", iter(["f"]))
    assert store.list("") == {"f", "d"}
    assert store.list("d") == frozenset()
