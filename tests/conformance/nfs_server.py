"""The server side of the imitation: the state of an NFSv4.1 server, one method for one request.

It is the truth that the clients' caches are compared with, so it knows nothing of caches, paths or machines. Objects
stand for file handles: a handle stays good when its name is gone, until the server answers ESTALE. Requests are
atomic; `on_request` is called before each, which is where a test lets another machine go first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class File:
    """Content, the number of names it has, and whether the server has forgotten it."""

    content: bytearray = field(default_factory=bytearray)
    names: int = 1
    forgotten: bool = False


@dataclass(eq=False)
class Folder:
    """Entries by name, and the counter that goes up with each change of them."""

    entries: dict[str, Node] = field(default_factory=dict)
    change: int = 0
    removed: bool = False


Node = File | Folder


@dataclass(frozen=True)
class Change:
    """A folder's change counter before and after a request, as NFSv4 tells it to the changing client."""

    before: int
    after: int


class NfsServer:
    """An exported directory tree in memory."""

    def __init__(self) -> None:
        self.root = Folder()
        self.on_request: Callable[[], object] = lambda: None
        self._removed: list[File] = []

    def restart(self) -> None:
        """Come up again on the same disk.

        Files that were removed while a client had them open were kept in memory only: they are lost now.
        """
        for file in self._removed:
            file.forgotten = file.names == 0
        self._removed.clear()

    def attributes(self, folder: Folder) -> int:
        """Change counter of a folder."""
        self._arrive(folder)
        return folder.change

    def lookup(self, folder: Folder, name: str) -> Node | None:
        """Object of a name now; also an OPEN of a file for reading."""
        self._arrive(folder)
        return folder.entries.get(name)

    def names(self, folder: Folder) -> list[str]:
        """Names in a folder."""
        self._arrive(folder)
        return list(folder.entries)

    def create(self, folder: Folder, name: str, *, exclusive: bool) -> tuple[File, Change]:
        """Create an empty file, or open the one that is there unless `exclusive`."""
        self._arrive(folder)
        existing = folder.entries.get(name)
        if isinstance(existing, File) and not exclusive:
            return existing, Change(folder.change, folder.change)
        file = File()
        return file, self._enter(folder, name, file)

    def make(self, folder: Folder, name: str) -> tuple[Folder, Change]:
        """Create an empty folder."""
        self._arrive(folder)
        new = Folder()
        return new, self._enter(folder, name, new)

    def link(self, file: File, folder: Folder, name: str) -> Change:
        """Give a file one more name."""
        self._arrive(folder)
        change = self._enter(folder, name, file)
        file.names += 1
        return change

    def rename(self, source: Folder, old: str, target: Folder, new: str) -> tuple[Change, Change]:
        """Move a name, replacing a file of the new name; returns the changes of the two folders."""
        self._arrive(source, target)
        if old not in source.entries:
            raise refusal(errno.ENOENT, old)
        replaced = target.entries.get(new)
        if isinstance(replaced, Folder):
            raise refusal(errno.EISDIR, new)
        if replaced is source.entries[old]:
            unchanged = Change(source.change, source.change)
            return unchanged, unchanged
        before = source.change, target.change
        if replaced is not None:
            self._drop(replaced)
        target.entries[new] = source.entries.pop(old)
        source.change += 1
        target.change += source is not target
        return Change(before[0], source.change), Change(before[1], target.change)

    def remove(self, folder: Folder, name: str) -> Change:
        """Remove a name of a file, or an empty folder."""
        self._arrive(folder)
        node = folder.entries.get(name)
        if node is None:
            raise refusal(errno.ENOENT, name)
        if isinstance(node, File):
            self._drop(node)
        elif node.entries:
            raise refusal(errno.ENOTEMPTY, name)
        else:
            node.removed = True
        del folder.entries[name]
        folder.change += 1
        return Change(folder.change - 1, folder.change)

    def size(self, file: File) -> int:
        """Bytes that the file has now."""
        self._arrive(file)
        return len(file.content)

    def read(self, file: File, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`."""
        self._arrive(file)
        return bytes(file.content[offset : offset + count])

    def write(self, file: File, offset: int, data: bytes) -> None:
        """Put bytes at an offset; unwritten bytes before it read as zeros. NFS has no append."""
        self._arrive(file)
        file.content.extend(bytes(max(0, offset - len(file.content))))
        file.content[offset : offset + len(data)] = data

    def _arrive(self, *handles: Node) -> None:
        self.on_request()
        for handle in handles:
            if handle.forgotten if isinstance(handle, File) else handle.removed:
                raise refusal(errno.ESTALE, "")

    def _enter(self, folder: Folder, name: str, node: Node) -> Change:
        if name in folder.entries:
            raise refusal(errno.EEXIST, name)
        folder.entries[name] = node
        folder.change += 1
        return Change(folder.change - 1, folder.change)

    def _drop(self, file: File) -> None:
        file.names -= 1
        if file.names == 0:
            self._removed.append(file)


def refusal(code: int, name: str) -> OSError:
    """The error of a refused request, of the class that goes with its errno."""
    return OSError(code, os.strerror(code), name)
