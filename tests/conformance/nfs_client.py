"""An imitation of one machine's NFS client, with the default caches of an EFS mount: `Files` over an `NfsServer`.

It does what two real clients were measured to do (Linux 6.1, NFSv4.1, mounted as AWS recommends for EFS, one acting
and one looking on):

* A name that was looked up, absent or present, is believed until the folder's attributes have expired *and* have been
  seen to have changed. They live 30 s, and 60 s once the server had nothing new: polling `exists`, or even `open`, saw
  a new file 18 s late in the median, and 55 s (at most 59.5 s) after long polling. One look after a remembered
  absence was wrong 200 times of 200. `listdir` of a new folder, `create` in it, and `unlink`, `rename` and `link` of a
  new file are refused for the same reason.
* Listing or opening a folder asks for its attributes, and a change empties the memory of its names: a look after it was
  wrong 0 times of 200. Opening a file that is thought to be there asks, too. A name never looked up is asked for.
* One's own change in a folder that others had changed empties the memory; otherwise the rest of it is kept.
* A refused `link` or `mkdir` makes the client ask for that name again, and for that name alone.
* `create` and `append` reach the server as several requests: a file written in place was seen empty in a quarter of
  all looks, and also short. An append writes where the file ended when it was opened: two machines lost a third.
* Removing or replacing one's own open file renames it to `.nfs…` until it is closed; removing that name is EBUSY. A
  file that somebody else removed can be read on, and is ESTALE once the server has been restarted.

If nothing was measured it takes the worse of what Linux may do: one's own changes make the attributes young again.
It has no page cache: published files never change, and reading from the server is when ESTALE shows. Lost replies are
no business of the caches: see `faults.py`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from estafeta.store.files import Buffer, Clock, Reader, Writer

from .nfs_server import Change, File, Folder, NfsServer, Node, refusal

YOUNGEST_S = 30.0
"""Seconds for which the client believes a folder's attributes after a change (acdirmin)."""

OLDEST_S = 60.0
"""Seconds for which it believes them at most; the time doubles up to it while nothing changes (acdirmax)."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False)
class Memory:
    """The client's memory of one folder.

    Attributes:
        change: Change counter of the folder when the names were looked up.
        asked_at: Time when the client last asked the server for it, in seconds.
        trust_s: Seconds for which the client believes it from then on.
        names: Answers to look-ups; None is remembered absence.
    """

    change: int
    asked_at: float
    trust_s: float = YOUNGEST_S
    names: dict[str, Node | None] = field(default_factory=dict)


@dataclass(eq=False)
class OpenName:
    """A name that this machine has open: it moves along when the name is changed here."""

    folder: Folder
    name: str
    readers: int = 0
    removed: bool = False


def by_path(call: Callable[Concatenate[NfsClientFiles, P], T]) -> Callable[Concatenate[NfsClientFiles, P], T]:
    """Repeat a call by path without any memory, if it went through a folder that another machine has removed."""

    def patient(client: NfsClientFiles, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(client, *args, **kwargs)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            client.forget()
            return call(client, *args, **kwargs)

    return patient


class NfsReader:
    """`Reader` over an open file handle; the size is the one that the server told at opening."""

    def __init__(self, client: NfsClientFiles, opened: OpenName, file: File, size: int) -> None:
        self.size = size
        self._client = client
        self._opened: OpenName | None = opened
        self._file = file

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        view = memoryview(buffer).cast("B")
        data = self._client.server.read(self._file, offset, len(view))
        view[: len(data)] = data
        return len(data)

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `Reader.scatter`: to the server it is one read."""
        content = bytearray(sum(len(memoryview(buffer).cast("B")) for buffer in buffers))
        left, count = memoryview(content), self.readinto(content, offset)
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            view[:] = left[: len(view)]
            left = left[len(view) :]
        return count

    def close(self) -> None:
        """See `Reader.close`. Closing again does nothing."""
        opened, self._opened = self._opened, None
        if opened is not None:
            self._client.closed(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NfsWriter:
    """`Writer`: each chunk is a request of its own. The real client may keep them back until the file is closed."""

    def __init__(self, server: NfsServer, file: File) -> None:
        self._server = server
        self._file = file

    def write(self, chunks: Sequence[Buffer], offset: int) -> None:
        """See `Writer.write`."""
        for chunk in chunks:
            data = bytes(memoryview(chunk).cast("B"))
            self._server.write(self._file, offset, data)
            offset += len(data)

    def close(self) -> None:
        """See `Writer.close`."""


class NfsClientFiles:
    """`Files` as one machine sees them through its caches.

    Args:
        server: Server that all machines have mounted.
        clock: Clock by which memories grow old.
    """

    def __init__(self, server: NfsServer, clock: Clock) -> None:
        self.server = server
        self._clock = clock
        self._memories: dict[Folder, Memory] = {}
        self._open: dict[tuple[Folder, str], OpenName] = {}
        self._kept_names = (f".nfs{number:024x}" for number in itertools.count(1))

    @by_path
    def exists(self, path: str) -> bool:
        """Result of `os.path.exists`, which the protocol never calls: a test shows how wrong it can be."""
        try:
            folder, name = self._parent(path)
        except FileNotFoundError:
            return False
        return self._lookup(folder, name) is not None

    @by_path
    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        folder = self._folder(path)
        self._ask(folder)
        return self.server.names(folder)

    @by_path
    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """See `Files.create`. One request opens, one more writes each chunk."""
        folder, name = self._parent(path)
        file, change = self.server.create(folder, name, exclusive=True)
        self._did(folder, change, {name: file})
        NfsWriter(self.server, file).write(chunks, 0)

    @by_path
    def write(self, path: str) -> Writer:
        """See `Files.write`."""
        folder, name = self._parent(path)
        file, change = self.server.create(folder, name, exclusive=True)
        self._did(folder, change, {name: file})
        return NfsWriter(self.server, file)

    def watch(self, paths: Sequence[str]) -> None:
        """See `Files.watch`: the kernel knows nothing of other machines' changes."""

    @by_path
    def open(self, path: str) -> Reader:
        """See `Files.open`."""
        folder, name = self._parent(path)
        if self._lookup(folder, name) is None:
            raise refusal(errno.ENOENT, path)
        node = self._memory(folder).names[name] = self.server.lookup(folder, name)
        if node is None:
            raise refusal(errno.ENOENT, path)
        if isinstance(node, Folder):
            raise refusal(errno.EISDIR, path)
        size = self.server.size(node)
        opened = self._open.setdefault((folder, name), OpenName(folder, name))
        opened.readers += 1
        return NfsReader(self, opened, node, size)

    @by_path
    def append(self, path: str, data: bytes) -> None:
        """See `Files.append`. The client asks for the end of the file once, at opening."""
        folder, name = self._parent(path)
        file, change = self.server.create(folder, name, exclusive=False)
        self._did(folder, change, {name: file})
        end = self.server.size(file)
        self.server.write(file, end, data)

    @by_path
    def link(self, source: str, target: str) -> None:
        """See `Files.link`."""
        file = self._existing(source)[2]
        if isinstance(file, Folder):
            raise refusal(errno.EPERM, source)
        folder, name = self._parent(target)
        try:
            change = self.server.link(file, folder, name)
        except FileExistsError:
            self._memory(folder).names.pop(name, None)
            raise
        self._did(folder, change, {name: file})

    @by_path
    def rename(self, source: str, target: str) -> None:
        """See `Files.rename`."""
        source_folder, old, node = self._existing(source)
        target_folder, new = self._parent(target)
        if (target_folder, new) in self._open:
            self._keep(target_folder, new)
        left, entered = self.server.rename(source_folder, old, target_folder, new)
        self._did(source_folder, left, {old: None})
        self._did(target_folder, entered, {new: node})
        if opened := self._open.pop((source_folder, old), None):
            opened.folder, opened.name = target_folder, new
            self._open[target_folder, new] = opened

    @by_path
    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        folder, name, node = self._existing(path)
        if isinstance(node, Folder):
            raise refusal(errno.EISDIR, path)
        opened = self._open.get((folder, name))
        if opened is None:
            self._did(folder, self.server.remove(folder, name), {name: None})
        elif opened.removed:
            raise refusal(errno.EBUSY, path)
        else:
            self._keep(folder, name)

    @by_path
    def mkdir(self, path: str) -> None:
        """See `Files.mkdir`."""
        folder, name = self._parent(path)
        try:
            new, change = self.server.make(folder, name)
        except FileExistsError:
            self._memory(folder).names.pop(name, None)
            raise
        self._did(folder, change, {name: new})

    @by_path
    def rmdir(self, path: str) -> None:
        """See `Files.rmdir`."""
        folder, name, node = self._existing(path)
        if isinstance(node, File):
            raise refusal(errno.ENOTDIR, path)
        self._did(folder, self.server.remove(folder, name), {name: None})

    def closed(self, opened: OpenName) -> None:
        """Let go of an open name; the last holder removes the file kept for it, unless another machine has."""
        opened.readers -= 1
        if opened.readers:
            return
        del self._open[opened.folder, opened.name]
        if opened.removed and not opened.folder.removed:
            with contextlib.suppress(FileNotFoundError):
                self._did(opened.folder, self.server.remove(opened.folder, opened.name), {opened.name: None})

    def forget(self) -> None:
        """Drop every memory."""
        self._memories.clear()

    def _folder(self, path: str) -> Folder:
        folder = self.server.root
        for name in path.split("/"):
            if not name:
                continue
            node = self._lookup(folder, name)
            if node is None:
                raise refusal(errno.ENOENT, path)
            if isinstance(node, File):
                raise refusal(errno.ENOTDIR, path)
            folder = node
        return folder

    def _parent(self, path: str) -> tuple[Folder, str]:
        directory, _, name = path.rpartition("/")
        return self._folder(directory), name

    def _existing(self, path: str) -> tuple[Folder, str, Node]:
        folder, name = self._parent(path)
        node = self._lookup(folder, name)
        if node is None:
            raise refusal(errno.ENOENT, path)
        return folder, name, node

    def _lookup(self, folder: Folder, name: str) -> Node | None:
        memory = self._memory(folder)
        if name not in memory.names:
            memory.names[name] = self.server.lookup(folder, name)
        return memory.names[name]

    def _memory(self, folder: Folder) -> Memory:
        memory = self._memories.get(folder)
        if memory is None or self._clock.monotonic() - memory.asked_at >= memory.trust_s:
            memory = self._ask(folder)
        return memory

    def _ask(self, folder: Folder) -> Memory:
        change = self.server.attributes(folder)
        now = self._clock.monotonic()
        memory = self._memories.get(folder)
        if memory is None or memory.change != change:
            memory = self._memories[folder] = Memory(change, now)
        else:
            memory.trust_s = min(2 * memory.trust_s, OLDEST_S)
            memory.asked_at = now
        return memory

    def _did(self, folder: Folder, change: Change, names: dict[str, Node | None]) -> None:
        memory = self._memories.get(folder)
        now = self._clock.monotonic()
        if memory is None or memory.change != change.before:
            memory = self._memories[folder] = Memory(change.after, now)
        memory.change, memory.asked_at = change.after, now
        memory.names.update(names)

    def _keep(self, folder: Folder, name: str) -> None:
        opened = self._open.pop((folder, name))
        kept = next(self._kept_names)
        self._did(folder, self.server.rename(folder, name, folder, kept)[0], {name: None})
        opened.name, opened.removed = kept, True
        self._open[folder, kept] = opened
