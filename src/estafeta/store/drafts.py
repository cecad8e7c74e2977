"""Files that a rank fills piece by piece, publishes, retires, and fills again where that is safe.

A draft lies under a private name. Publishing gives it a second one by `link`, so it is published once, as everything
is. Retiring removes that name. The rest depends on the file system:

* A shared file system: the private name goes at once, the file with the public name. No file is written twice.
* A file system of this machine alone: the file stays open for the next content and the next name. So no page has to be
  allocated, cleared and freed again, which takes most of the time for 10 MB. That is safe once every reader has moved
  on; the caller of `retire` must know it. An outdated reader that still holds the file open sees content that does not
  fit its header.
"""

import contextlib
from collections.abc import Sequence

from estafeta.store.files import Buffer
from estafeta.store.store import Store, temporary_name


class Draft:
    """One file.

    Args:
        store: The store.
        directory: Directory for its publication.
        reuse: Whether it stays open for other content.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, store: Store, directory: str, *, reuse: bool) -> None:
        self._store = store
        self._directory = directory
        self._reuse = reuse
        self._private = store.absolute(f"{directory}/{temporary_name('draft')}")
        self._writer = store.files.write(self._private)
        self._open = True
        self._public = ""

    def write(self, chunks: Sequence[Buffer], offset: int) -> None:
        """Write all chunks, one after the other, from `offset` bytes on.

        Raises:
            OSError: The chunks could not be written.
        """
        self._writer.write(chunks, offset)

    def publish(self, name: str, token: str, head_bytes: int) -> bool:
        """Give it a name in its directory.

        Args:
            name: Final name.
            token: Token in the first `head_bytes` bytes of the file, and in no other publication.
            head_bytes: Number of bytes.

        Returns:
            Whether the published file is this one; if not, another writer was first.

        Raises:
            OSError: The content could not be written back, and nothing is published.
        """
        if not self._reuse:
            self._close()  # an error of the write-back shows here, before anybody can see the file
        mine = self._store.give_name(self._private, f"{self._directory}/{name}", token, head_bytes)
        if mine:
            self._public = name
        if not self._reuse:
            self._remove_private()
        return mine

    def retire(self) -> None:
        """Remove its public name, if it has one."""
        if self._public:
            self._store.sweep(self._directory, [self._public])
            self._public = ""

    def discard(self) -> None:
        """Give it up; a published file stays."""
        self._close()
        self._remove_private()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._writer.close()

    def _remove_private(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._store.files.unlink(self._private)


class Drafts:
    """Drafts of one size and one directory.

    Args:
        store: The store.
        directory: Directory for their publication.
        reuse: Whether retired drafts are filled again.
    """

    def __init__(self, store: Store, directory: str, *, reuse: bool) -> None:
        self._store = store
        self._directory = directory
        self._reuse = reuse
        self._free: list[Draft] = []
        self._in_use: dict[Draft, None] = {}  # in order, so that a simulated history can be repeated

    def take(self) -> Draft:
        """A draft to fill; the caller must overwrite all of its old content."""
        draft = self._free.pop() if self._free else Draft(self._store, self._directory, reuse=self._reuse)
        self._in_use[draft] = None
        return draft

    def give_back(self, draft: Draft) -> None:
        """Retire a published draft, or give back an unpublished one."""
        draft.retire()
        self._in_use.pop(draft, None)
        if self._reuse:
            self._free.append(draft)
        else:
            draft.discard()

    def close(self) -> None:
        """Give up all private names; published files stay."""
        for draft in (*self._free, *self._in_use):
            draft.discard()
