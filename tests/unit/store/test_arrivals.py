"""The wait for files: by their names where the kernel reports them, and by listings where it cannot."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from conformance.clock import VirtualClock
from conformance.interposed import Interposed
from estafeta import waiting
from estafeta.errors import Gone
from estafeta.store.arrivals import Arrivals, is_local
from estafeta.store.files import OsFiles, Reader
from estafeta.store.store import Backoff, Store


class GivenUp(Exception):
    pass


def never(_missing: object) -> None:
    """An alarm that never raises."""


def give_up(_missing: object) -> None:
    raise GivenUp


def content(reader: Reader) -> bytes:
    buffer = bytearray(reader.size)
    with reader:
        return bytes(buffer[: reader.readinto(buffer, 0)])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def publish(store: Store, *paths: str) -> None:
    for path in paths:
        store.publish(path, [path.encode()], path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store on a file system of this machine."""
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.make_directories(name)
    return store


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


class Listed(Interposed):
    """Files of a shared file system, with the times of all listings."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(OsFiles())
        self._clock = clock
        self.listed: list[tuple[float, str]] = []
        self.opened: list[str] = []

    def listdir(self, path: str) -> list[str]:
        self.listed.append((self._clock.monotonic(), path.rpartition("/")[2]))
        return super().listdir(path)

    def open(self, path: str) -> Reader:
        self.opened.append(path.rpartition("/")[2])
        return super().open(path)


@pytest.fixture
def files(clock: VirtualClock) -> Listed:
    return Listed(clock)


@pytest.fixture
def shared(store: Store, files: Listed, clock: VirtualClock) -> Store:
    """The same directory, as if other machines used it, too."""
    return Store(store.root, files, clock)


@pytest.fixture
def arrivals_of(store: Store) -> Iterator[Callable[..., Arrivals]]:
    """A function that makes arrivals, which the fixture closes."""
    made: list[Arrivals] = []

    def make(of: Store, alarm: Callable[[Sequence[str]], None] = never, writers: int = 2) -> Arrivals:
        made.append(Arrivals(of, ["a", "b"], alarm, writers))
        return made[-1]

    yield make
    for arrivals in made:
        arrivals.close()


# By name


@pytest.mark.parametrize("writers", [1, 10_000], ids=["a processor each", "taking turns"])
def test_message_of_another_writer_is_found(
    writers: int, store: Store, arrivals_of: Callable[..., Arrivals], tmp_path: Path
) -> None:
    """The writer begins after the reader's first look; the kernel's report ends the wait."""
    looked = threading.Event()

    class Looking(OsFiles):
        def open(self, path: str) -> Reader:
            try:
                return super().open(path)
            except FileNotFoundError:
                looked.set()
                raise

    def write() -> None:
        looked.wait(30)
        publish(store, "b/1", "a/2")

    arrivals = arrivals_of(Store(tmp_path, Looking()), give_up_after(20), writers)
    assert arrivals.is_local
    writer = threading.Thread(target=write)
    writer.start()
    found = arrivals.collect(["a/2", "b/1"])
    writer.join()
    assert [content(reader) for reader in found] == [b"a/2", b"b/1"]
    assert arrivals.looks == 0, "a look that costs nothing is not counted"


def give_up_after(calls: int) -> Callable[[object], None]:
    left = iter(range(calls))

    def alarm(_missing: object) -> None:
        if next(left, None) is None:
            raise GivenUp

    return alarm


def test_a_round_of_files_one_after_the_other(store: Store, arrivals_of: Callable[..., Arrivals]) -> None:
    """Two threads wait for each other, as ranks do, and miss nothing that happens between a look and a wait."""
    rounds = 200

    def go(mine: str, other: str, result: list[bytes]) -> None:
        arrivals = Arrivals(store, [other], give_up_after(60), writers=10_000)
        for number in range(rounds):
            publish(store, f"{mine}/{number}")
            result.extend(content(reader) for reader in arrivals.collect([f"{other}/{number}"]))
        arrivals.close()

    seen: tuple[list[bytes], list[bytes]] = ([], [])
    threads = [
        threading.Thread(target=go, args=(*names, result))
        for names, result in zip((("a", "b"), ("b", "a")), seen, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(found) for found in seen] == [rounds, rounds]
    assert seen[0] == [f"b/{number}".encode() for number in range(rounds)]


def test_present_messages_are_found_without_waiting(store: Store, arrivals_of: Callable[..., Arrivals]) -> None:
    publish(store, "a/1", "b/1")
    found = arrivals_of(store, give_up).collect(["b/1", "a/1"])
    assert [content(reader) for reader in found] == [b"b/1", b"a/1"]
    assert arrivals_of(store, give_up).collect([]) == []


def test_the_alarm_rings_again_and_again(store: Store, arrivals_of: Callable[..., Arrivals]) -> None:
    with pytest.raises(GivenUp):
        arrivals_of(store, give_up_after(1)).collect(["a/1"])


def test_the_alarm_hears_what_is_missing(store: Store, arrivals_of: Callable[..., Arrivals]) -> None:
    heard: list[list[str]] = []

    def alarm(missing: Sequence[str]) -> None:
        heard.append(list(missing))
        if len(heard) == 1:
            publish(store, "a/2")
        else:
            raise GivenUp

    publish(store, "a/1")
    with pytest.raises(GivenUp):
        arrivals_of(store, alarm).collect(["a/1", "b/1", "a/2"])
    assert heard == [["b/1", "a/2"], ["b/1"]]


# By listing


def test_listed_messages_are_found_and_looks_are_counted(
    store: Store, shared: Store, files: Listed, clock: VirtualClock, arrivals_of: Callable[..., Arrivals]
) -> None:
    arrivals = arrivals_of(shared)
    assert not arrivals.is_local
    publish(store, "a/1")
    clock.after(0.3, partial(publish, store, "b/1"))
    found = arrivals.collect(["a/1", "b/1"])
    assert [content(reader) for reader in found] == [b"a/1", b"b/1"]
    assert files.opened == ["1", "1"], "only what is listed is opened"
    assert arrivals.looks == len(files.listed)
    assert [name for _, name in files.listed[:2]] == ["a", "b"]
    assert {name for _, name in files.listed[2:]} == {"b"}, "a directory that has nothing to come is left alone"


def test_pauses_between_looks_grow_to_that_between_alarms(
    shared: Store, files: Listed, clock: VirtualClock, arrivals_of: Callable[..., Arrivals]
) -> None:
    with pytest.raises(GivenUp):
        arrivals_of(shared, give_up_after(30)).collect(["a/1"])
    times = [time for time, _ in files.listed]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] == Backoff().first_s
    assert all(later <= earlier * Backoff().factor * 1.001 for earlier, later in itertools.pairwise(pauses))
    assert pauses[-1] == pytest.approx(waiting.ALARM_S)
    assert max(pauses) <= waiting.ALARM_S * 1.001


def rounds_of(clock: VirtualClock, store: Store, arrivals: Arrivals, *seconds: float) -> list[int]:
    """Numbers of looks in some rounds, in which the file came after so many seconds."""
    looks = []
    for number, later in enumerate(seconds):
        before = arrivals.looks
        clock.after(later, partial(publish, store, f"a/{number}"))
        arrivals.collect([f"a/{number}"])[0].close()
        looks.append(arrivals.looks - before)
    return looks


def test_the_first_look_is_made_when_the_files_are_expected(
    store: Store, shared: Store, clock: VirtualClock, arrivals_of: Callable[..., Arrivals]
) -> None:
    first, *others = rounds_of(clock, store, arrivals_of(shared), *[0.4] * 40)
    assert first > 5
    assert sum(others) / len(others) < first / 2
    assert others.count(1) >= len(others) / 2, "where rounds are alike, one look is mostly enough"


def test_the_first_look_comes_ever_earlier_when_it_finds_all(
    store: Store, shared: Store, files: Listed, clock: VirtualClock, arrivals_of: Callable[..., Arrivals]
) -> None:
    arrivals = arrivals_of(shared)
    rounds_of(clock, store, arrivals, 0.4)
    publish(store, *[f"b/{number}" for number in range(40)])
    waits = []
    for number in range(40):
        began = clock.monotonic()
        arrivals.collect([f"b/{number}"])[0].close()
        waits.append(clock.monotonic() - began)
    assert waits[0] >= 0.4
    assert all(later <= earlier for earlier, later in itertools.pairwise(waits))
    assert waits[-1] < waits[0] * waiting.EAGERNESS**4


def test_a_round_that_was_long_does_not_keep_the_alarm_from_ringing(
    store: Store, shared: Store, clock: VirtualClock, arrivals_of: Callable[..., Arrivals]
) -> None:
    """Replacing a lost rank took a minute; the next round, too, must notice when its time is up."""
    rang: list[float] = [0.0]
    arrivals = arrivals_of(shared, lambda _: rang.append(clock.monotonic()))
    rounds_of(clock, store, arrivals, 60.0)
    rounds_of(clock, store, arrivals, 90.0)
    rang.append(clock.monotonic())
    assert max(later - earlier for earlier, later in itertools.pairwise(rang)) <= 2 * waiting.ALARM_S


def test_a_file_that_is_listed_but_gone_is_waited_for(
    store: Store, shared: Store, files: Listed, clock: VirtualClock, arrivals_of: Callable[..., Arrivals]
) -> None:
    """The file was retired; the alarm will notice that this rank is outdated."""

    class Vanishing(Listed):
        def open(self, path: str) -> Reader:
            store.sweep("a", ["1"])
            return super().open(path)

    publish(store, "a/1")
    with pytest.raises(GivenUp):
        arrivals_of(Store(store.root, Vanishing(clock), clock), give_up_after(3)).collect(["a/1"])


# Either way


@pytest.mark.parametrize("of", ["store", "shared"])
def test_an_alarm_that_raises_closes_what_was_opened(
    of: str, request: pytest.FixtureRequest, arrivals_of: Callable[..., Arrivals], store: Store
) -> None:
    publish(store, "a/1", "b/1")
    arrivals = arrivals_of(request.getfixturevalue(of), give_up)
    before = open_descriptors()
    with pytest.raises(GivenUp):
        arrivals.collect(["a/1", "b/1", "a/2"])
    assert open_descriptors() == before


@pytest.mark.parametrize("of", ["store", "shared"])
def test_listed_messages_are_opened_or_gone(
    of: str, request: pytest.FixtureRequest, arrivals_of: Callable[..., Arrivals], store: Store
) -> None:
    publish(store, "a/1", "b/1")
    arrivals = arrivals_of(request.getfixturevalue(of), give_up)
    assert [content(reader) for reader in arrivals.open(["b/1", "a/1"])] == [b"b/1", b"a/1"]
    before = open_descriptors()
    with pytest.raises(Gone, match="a/2"):
        arrivals.open(["a/1", "a/2", "b/1"])
    assert open_descriptors() == before


def test_an_error_of_opening_is_passed_on(store: Store) -> None:
    publish(store, "a/1")
    (Path(store.root) / "a/loop").symlink_to("loop")
    before = open_descriptors()
    arrivals = Arrivals(store, ["a", "b"], give_up, writers=2)
    with pytest.raises(OSError, match="symbolic links"):
        arrivals.collect(["a/1", "a/loop"])
    arrivals.close()
    assert open_descriptors() == before


def test_whether_all_are_on_this_machine(store: Store, shared: Store) -> None:
    before = open_descriptors()
    assert is_local(store, "a")
    assert not is_local(shared, "a")
    assert open_descriptors() == before
