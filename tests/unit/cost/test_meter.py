"""Every file operation is counted once, where it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from conformance.interposed import Interposed
from core.driver import Relay
from core.specs import spec_of
from estafeta.cost.meter import KIB, Meter, Traffic
from estafeta.protocol.layout import RunLayout
from estafeta.store.files import Buffer, OsFiles, Reader
from estafeta.store.store import Store


class Witness(Interposed):
    """Files that keep their own list of calls."""

    def __init__(self, files: OsFiles) -> None:
        super().__init__(files)
        self.calls: Counter[str] = Counter()
        self.read = self.written = 0

    def around(self, call: str, path: str, carry_out: Callable[[], Any]) -> Any:
        result = carry_out()
        self.calls[{"listdir": "list", "write": "create"}.get(call, call)] += 1
        return _Seen(result, self) if call == "open" else result

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        super().create(path, chunks)
        self.calls["write"] += 1
        self.written += sum(len(memoryview(chunk).cast("B")) for chunk in chunks)


class _Seen:
    def __init__(self, reader: Reader, witness: Witness) -> None:
        self.size, self.close, self._reader, self._witness = reader.size, reader.close, reader, witness

    def readinto(self, buffer: Buffer, offset: int) -> int:
        count = self._reader.readinto(buffer, offset)
        self._witness.calls["read"] += 1
        self._witness.read += count
        return count

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_the_figures_of_a_run_are_what_a_witness_has_seen(tmp_path: Path) -> None:
    """The calls are those of a whole run and its removal: listings, partial reads, links, sweeping."""
    meter = Meter()
    witness = Witness(OsFiles(meter))
    relay = Relay(tmp_path, spec_of("adamw", epochs=1), files=witness)
    relay.run()
    relay.control("clean")
    traffic = meter.traffic()
    assert traffic.calls == witness.calls
    assert {"list", "open", "read", "create", "write", "link", "unlink", "mkdir", "rmdir"} <= traffic.calls.keys()
    assert (traffic.read_bytes, traffic.write_bytes) == (witness.read, witness.written)
    assert relay.store.list(RunLayout("r").root) == frozenset()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=5), st.integers(1, 4000))
def test_a_writer_and_a_reader(tmp_path_factory: Any, sizes: list[int], part: int) -> None:
    meter = Meter()
    files = OsFiles(meter)
    path = str(tmp_path_factory.mktemp("files") / "a")
    writer = files.write(path)
    for size in sizes:
        writer.write([bytes(size // 2), bytes(size - size // 2)], 0)
    writer.close()
    with files.open(path) as reader:
        got = reader.readinto(bytearray(part), 0)
    traffic = meter.traffic()
    assert traffic.calls == {"create": 1, "write": 1, "open": 1, "read": 1}
    assert (traffic.write_bytes, traffic.read_bytes) == (sum(sizes), got)


def test_a_file_that_is_filled_piece_by_piece_is_one_transfer_each_time_that_it_is_published(tmp_path: Path) -> None:
    meter = Meter()
    files = OsFiles(meter)
    writer = files.write(str(tmp_path / "draft"))
    for name, sizes in (("a", (3, 4, 5)), ("b", (40_000,))):
        for size in sizes:
            writer.write([bytes(size)], 0)
        assert meter.traffic().write_bytes == {"a": 0, "b": 12}[name], "it is not sent yet"
        files.link(str(tmp_path / "draft"), str(tmp_path / name))
    writer.close()
    traffic = meter.traffic()
    assert traffic.calls == {"create": 1, "write": 2, "link": 2}, "creating is two requests, a link is one"
    assert (traffic.write_bytes, traffic.elastic_write_bytes) == (40_012, (32 + 40 + 2 * 4 + 2 * 4) * KIB)


def test_failed_calls_are_not_counted_and_a_reset_begins_anew(tmp_path: Path) -> None:
    meter = Meter()
    store = Store(tmp_path, OsFiles(meter))
    assert not store.list("nowhere")
    listed = meter.traffic().calls
    assert listed == {"list": 1}, "of the directory above; the one that is not there gave an error"
    store.publish("a", [b"token"], "token")
    assert not store.publish("a", [b"other"], "other")
    calls = meter.traffic().calls
    assert (calls["create"], calls["link"], calls["unlink"]) == (2, 1, 2)
    meter.reset()
    assert meter.traffic() == Traffic()


def test_a_file_that_is_scattered_is_one_read_however_it_is_done(tmp_path: Path) -> None:
    """The call maps and copies a file of this machine, and reads others."""
    (tmp_path / "a").write_bytes(bytes(5000))
    meter = Meter()
    with OsFiles(meter).open(str(tmp_path / "a")) as reader:
        assert reader.scatter([bytearray(1000), bytearray(3000)], 500) == 4000
    traffic = meter.traffic()
    assert traffic.calls == {"open": 1, "read": 1}
    assert traffic.read_bytes == 4000
