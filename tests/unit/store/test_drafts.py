"""Files that a rank fills again, on a file system of this machine alone and as if on a shared one."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance.faults import Failing
from conformance.interposed import Interposed
from estafeta.store.drafts import Draft, Drafts
from estafeta.store.files import Buffer, OsFiles, Writer
from estafeta.store.store import TEMPORARY, Store

HEAD_BYTES = 16
LOCAL = pytest.mark.parametrize("reuse", [True, False], ids=["of this machine", "shared"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "d").mkdir()
    return Store(tmp_path)


def head(token: str) -> bytes:
    return token.encode().ljust(HEAD_BYTES, b"\0")


def fill(draft: Draft, token: str, content: bytes = b"content") -> None:
    draft.write([content[:3], content[3:]], HEAD_BYTES)
    draft.write([head(token)], 0)


def publish(drafts: Drafts, name: str, token: str, content: bytes = b"content") -> tuple[Draft, bool]:
    draft = drafts.take()
    fill(draft, token, content)
    return draft, draft.publish(name, token, HEAD_BYTES)


def private_names(store: Store) -> list[str]:
    return [name for name in os.listdir(f"{store.root}/d") if name.startswith(TEMPORARY)]


@LOCAL
def test_draft_filled_piece_by_piece_is_published_as_one(store: Store, reuse: bool) -> None:
    drafts = Drafts(store, "d", reuse=reuse)
    draft = drafts.take()
    fill(draft, "A")
    assert store.list("d") == frozenset()
    assert draft.publish("f", "A", HEAD_BYTES)
    assert store.list("d") == {"f"}
    assert store.read("d/f") == head("A") + b"content"


@LOCAL
def test_first_of_two_drafts_for_one_name_wins(store: Store, reuse: bool) -> None:
    one, other = Drafts(store, "d", reuse=reuse), Drafts(store, "d", reuse=reuse)
    assert publish(one, "f", "A", b"first..")[1]
    loser, mine = publish(other, "f", "B", b"second.")
    assert not mine
    other.give_back(loser)
    assert store.read("d/f") == head("A") + b"first..", "the loser takes nothing back"
    assert publish(other, "g", "B", b"second.")[1]
    assert store.read("d/f") == head("A") + b"first..", "and overwrites nothing"
    one.close()
    other.close()
    assert private_names(store) == []


def test_a_retired_draft_is_the_same_file_again(store: Store, tmp_path: Path) -> None:
    drafts = Drafts(store, "d", reuse=True)
    draft, _ = publish(drafts, "v1", "A")
    inode = (tmp_path / "d/v1").stat().st_ino
    other, _ = publish(drafts, "v2", "A")
    assert other is not draft, "it is not filled again while it is published"
    assert store.read("d/v1") == head("A") + b"content"
    drafts.give_back(draft)
    assert store.list("d") == {"v2"}
    again, mine = publish(drafts, "v3", "B", b"renewed")
    assert mine
    assert again is draft
    assert (tmp_path / "d/v3").stat().st_ino == inode
    assert store.read("d/v3") == head("B") + b"renewed"
    assert store.read("d/v2") == head("A") + b"content"


def test_a_reader_that_was_left_behind_sees_what_does_not_fit(store: Store) -> None:
    """The digest in the header shows it; on a shared file system the reader would see the old content."""
    seen = {}
    for reuse in (True, False):
        drafts = Drafts(store, "d", reuse=reuse)
        draft, _ = publish(drafts, f"v1-{reuse}", "A")
        with store.files.open(store.absolute(f"d/v1-{reuse}")) as reader:
            drafts.give_back(draft)
            publish(drafts, f"v2-{reuse}", "B", b"renewed")
            buffer = bytearray(reader.size)
            reader.readinto(buffer, 0)
            seen[reuse] = bytes(buffer)
    assert seen == {True: head("B") + b"renewed", False: head("A") + b"content"}


def test_on_a_shared_file_system_nothing_is_written_twice(store: Store) -> None:
    class Recorded(Interposed):
        def __init__(self) -> None:
            super().__init__(OsFiles())
            self.written: list[str] = []
            self.calls: list[str] = []

        def write(self, path: str) -> Writer:
            self.written.append(path)
            return super().write(path)

        def around(self, call, path, carry_out):  # type: ignore[no-untyped-def]
            self.calls.append(call)
            return carry_out()

    files = Recorded()
    drafts = Drafts(Store(store.root, files), "d", reuse=False)
    for version in range(3):
        draft, mine = publish(drafts, f"v{version}", "A")
        assert mine
        assert private_names(store) == [], "its private name goes when it is published"
        drafts.give_back(draft)
    assert len(set(files.written)) == len(files.written) == 3
    assert files.calls == ["write", "append", "append", "link", "unlink", "unlink", "unlink"] * 3
    assert store.list("d") == frozenset()


@LOCAL
def test_closing_drafts_keeps_the_published(store: Store, reuse: bool) -> None:
    drafts = Drafts(store, "d", reuse=reuse)
    publish(drafts, "f", "A")
    retired, _ = publish(drafts, "g", "A")
    drafts.give_back(retired)
    drafts.take()
    drafts.close()
    assert store.list("d") == {"f"}
    assert private_names(store) == []
    assert store.read("d/f") == head("A") + b"content"


@LOCAL
def test_closing_lets_go_of_the_files(store: Store, reuse: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    drafts = Drafts(store, "d", reuse=reuse)
    publish(drafts, "f", "A")
    drafts.give_back(publish(drafts, "g", "A")[0])
    drafts.take()
    drafts.close()
    assert len(os.listdir("/proc/self/fd")) == before


@LOCAL
def test_the_same_writer_may_publish_what_it_has_published(store: Store, reuse: bool) -> None:
    """The retry does not know the publication of the attempt before it."""
    publish(Drafts(store, "d", reuse=reuse), "f", "A")
    assert publish(Drafts(store, "d", reuse=reuse), "f", "A")[1]


class WrittenBackOnClose(Interposed):
    """Files whose close notices that the quota is used up."""

    def write(self, path: str) -> Writer:
        writer = super().write(path)

        class OverQuota:
            def write(self, chunks: Sequence[Buffer], offset: int) -> None:
                writer.write(chunks, offset)

            def close(self) -> None:
                writer.close()
                raise OSError(errno.EDQUOT, "Disk quota exceeded")

        return OverQuota()


def test_an_error_of_the_write_back_shows_before_anybody_sees_the_file(store: Store) -> None:
    drafts = Drafts(Store(store.root, WrittenBackOnClose(OsFiles())), "d", reuse=False)
    with pytest.raises(OSError, match="quota"):
        publish(drafts, "f", "A")
    assert store.list("d") == frozenset()
    drafts.close()
    assert private_names(store) == []


@LOCAL
def test_an_error_of_the_last_step_leaves_nothing(store: Store, reuse: bool) -> None:
    drafts = Drafts(Store(store.root, Failing(OsFiles(), "link", errno.EIO)), "d", reuse=reuse)
    with pytest.raises(OSError, match="Input/output"):
        publish(drafts, "f", "A")
    drafts.close()
    assert os.listdir(f"{store.root}/d") == []
