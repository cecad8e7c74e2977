"""The shared directory: publish once, claim, wait by listing, sweep. The only module that knows about NFS.

The store is safe between machines that see each other through NFS clients with their default caches, as AWS mounts EFS.
Each rule answers something that such clients were seen to do:

* A client that looked up an absent name may hold it for absent for 60 s, a directory's as well as a file's. So a
  waiting process lists the directory, then opens the listed files. It never polls a name, and "absent" counts only when
  a listing says so.
* Others see a file that is created in place while it is empty. So a writer writes the content under a temporary name in
  the same directory and closes the file. Then `link` gives it its final name; `link` fails if the name is taken, so
  exactly one writer wins.
* After a server fail-over, a successful call may get an error, because its first reply was lost: `link` says EEXIST,
  `rename` and `unlink` say ENOENT. So a writer puts a token into the file; when refused, it checks whether the
  published file has that token. A process that renames checks whether the new name is there.
* A removed file may answer ESTALE to a reader that holds it. So readers open afresh, read to memory, and never map.
* Appending from two machines loses records. So an appended file has one writer.

This module must not know runs, rounds or tensors: paths are relative to its root and come from `layout.py`.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from estafeta.errors import Gone, StoreError
from estafeta.store.files import Buffer, Clock, Files, OsFiles, Reader, SystemClock

TEMPORARY = ".tmp-"
"""Prefix of unpublished names. Listings leave out names that begin with a dot (NFS has some, too)."""
STALE_ATTEMPTS = 3
"""Number of attempts to open a file that is listed, yet stale or not found."""
T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Pauses between two looks at a directory: the first, the factor, and the longest (seconds)."""

    first_s: float = 0.002
    factor: float = 1.5
    longest_s: float = 1.0


def new_token() -> str:
    """A token for one publication: 128 random bits in hex."""
    return secrets.token_hex(16)


class Store:
    """A directory shared by functions on several machines.

    Args:
        root: The directory. It must exist.
        files: File-system calls; those of the operating system by default.
        clock: Clock for waiting.

    `files`, `clock` and `absolute` are for `drafts.py` and `arrivals.py`, which keep the same rules for the files of
    each round.
    """

    def __init__(self, root: str | os.PathLike[str], files: Files | None = None, clock: Clock | None = None) -> None:
        self.root = os.fspath(root)
        self.files = files or OsFiles()
        self.clock = clock or SystemClock()

    def absolute(self, path: str) -> str:
        """The absolute path of a path in the store."""
        return f"{self.root}/{path}"

    # Writing

    def make_directories(self, path: str) -> None:
        """Create a directory and its parents below the root; they may exist already."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            with contextlib.suppress(FileExistsError):
                self.files.mkdir(self.absolute("/".join(parts[:depth])))

    def publish(self, path: str, chunks: Sequence[Buffer], token: str) -> bool:
        """Publish a file once: it appears complete under its name, or not at all, and never changes.

        Args:
            path: Final name. Its directory exists.
            chunks: Content. The first chunk contains `token`.
            token: Id of this publication: the request id of an invocation, so that a retry recognises its own file, or
                `new_token()`.

        Returns:
            True if the published file carries `token`: it is this writer's. False if another writer was first.

        Raises:
            OSError: The file could not be written, for instance ENOSPC, and nothing is published.
            ValueError: The token is not in the first chunk.
        """
        if token.encode() not in bytes(chunks[0]):
            raise ValueError(f"the token {token!r} must stand in the first chunk of {path}")
        target = self.absolute(path)
        temporary = self._write_temporary(target, chunks)
        try:
            return self.give_name(temporary, path, token, len(bytes(chunks[0])))
        finally:
            self._remove(temporary)

    def give_name(self, temporary: str, path: str, token: str, head_bytes: int) -> bool:
        """Link a complete file to its final name; the one step of `publish` that others can see.

        Args:
            temporary: Absolute path of the file.
            path: Final name.
            token: Token in the file, as for `publish`.
            head_bytes: Number of bytes from the beginning that contain the token.

        Returns:
            True if the published file carries `token`, else False.
        """
        try:
            self.files.link(temporary, self.absolute(path))
        except FileExistsError:
            return self._carries(path, token, head_bytes)
        return True

    def place(self, path: str, chunks: Iterable[Buffer]) -> None:
        """Publish a file with the same content from any writer, so that any of them may be first.

        Args:
            path: Final name. Its directory exists.
            chunks: Content, piece by piece. If the iterator raises, nothing is published.

        Raises:
            OSError: The file could not be written, and nothing is published.
        """
        directory, _, name = self.absolute(path).rpartition("/")
        temporary = f"{directory}/{temporary_name(name)}"
        writer, offset = self.files.write(temporary), 0
        try:
            try:
                for chunk in chunks:
                    writer.write([chunk], offset)
                    offset += len(chunk)
            finally:
                writer.close()
            with contextlib.suppress(FileExistsError):
                self.files.link(temporary, self.absolute(path))
        finally:
            self._remove(temporary)

    def share(self, source: str, target: str) -> None:
        """Give a published file another name, which nobody else gives. An existing name stays.

        Raises:
            Gone: The file does not exist (any more).
        """
        try:
            self.files.link(self.absolute(source), self.absolute(target))
        except FileExistsError:
            return  # an earlier attempt made it, or this one, whose first reply was lost
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            raise Gone(f"{source} is not in the store (any more)") from error

    def replace(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Write a file whose last writer wins; readers see the old or the new one, complete.

        Raises:
            OSError: The file could not be written; the old one stays.
        """
        target = self.absolute(path)
        temporary = self._write_temporary(target, chunks)
        try:
            self.files.rename(temporary, target)
        except FileNotFoundError:
            # Nobody else removes the temporary name, so if the target is there this call has succeeded.
            if not self.exists(path):
                raise
        except OSError:
            self._remove(temporary)
            raise

    def append(self, path: str, data: bytes) -> None:
        """Append whole lines to a file that only this process writes."""
        self.files.append(self.absolute(path), data)

    def move(self, source: str, target: str) -> bool:
        """Rename a published file out of the way.

        Args:
            source: Name from a listing.
            target: Name to which no other caller moves, so that it identifies this move.

        Returns:
            True if this call has moved the file to `target`; False if there was nothing to move.
        """
        try:
            self.files.rename(self.absolute(source), self.absolute(target))
        except FileNotFoundError:
            return self.exists(target)
        return True

    # Reading

    def list(self, directory: str) -> frozenset[str]:
        """Published names in a directory, as the server has them now; none if there is no such directory."""
        return frozenset(name for name in self._names(directory) if not name.startswith("."))

    def unpublished(self, directory: str) -> tuple[str, ...]:
        """Temporary names in a directory, of living writers or left by dead ones."""
        return tuple(name for name in self._names(directory) if name.startswith(TEMPORARY))

    def exists(self, path: str) -> bool:
        """Whether a name is published; a listing of its directory asks the server."""
        directory, _, name = path.rpartition("/")
        return name in self.list(directory)

    def read(self, path: str) -> bytes:
        """The whole content of a published file.

        Raises:
            Gone: The file does not exist (any more).
        """
        return self.reading(path, _read_all)

    def reading(self, path: str, use: Callable[[Reader], T]) -> T:
        """Open a published file, hand it to `use`, close it; begin again if it is listed but stale or not found.

        Args:
            path: Name of the file.
            use: Function that reads what it needs to memory. It may be called again from the start.

        Raises:
            Gone: The file does not exist (any more).
            StoreError: The server still lists the file, but it cannot be read.
        """
        for _ in range(STALE_ATTEMPTS):
            try:
                with self.files.open(self.absolute(path)) as reader:
                    return use(reader)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                # This client may only remember the absence, and a stale file may have been replaced. The listing knows.
                if not self.exists(path):
                    raise Gone(f"{path} is not in the store (any more)") from error
        raise StoreError(f"{path} is listed, but could not be read in {STALE_ATTEMPTS} attempts")

    def wait(
        self,
        directory: str,
        ready: Callable[[frozenset[str]], bool],
        *,
        timeout_s: float,
        backoff: Backoff = Backoff(),
        alarm: Callable[[], None] = lambda: None,
    ) -> frozenset[str] | None:
        """List a directory again and again until `ready` accepts the published names.

        Args:
            directory: The directory.
            ready: Function that decides on a listing.
            timeout_s: Most seconds to wait.
            backoff: Pauses between looks.
            alarm: Function that is called before each pause. It raises to give up.

        Returns:
            The accepted listing, or None after `timeout_s` seconds. There is at least one look.
        """
        deadline = self.clock.monotonic() + timeout_s
        pause = backoff.first_s
        while not ready(names := self.list(directory)):
            left = deadline - self.clock.monotonic()
            if left <= 0:
                return None
            alarm()
            self.clock.sleep(min(pause, left))
            pause = min(pause * backoff.factor, backoff.longest_s)
        return names

    # Claiming

    def claim(self, directory: str, name: str, *, generation: int, token: str, **facts: Any) -> bool:
        """Claim a duty for one holder: each of the generations 0, 1, 2 … of `name` has one holder.

        To replace a holder that may be dead, a process claims the next generation; it never waits for the holder.

        Args:
            directory: Directory of the claims.
            name: Name of the duty.
            generation: Generation of the claim.
            token: Token of the holder.
            facts: Further facts about the holder, JSON-ready.

        Returns:
            True if `token` holds the claim, now or since an earlier attempt.
        """
        content = json.dumps({"holder": token, "generation": generation, **facts}).encode() + b"\n"
        return self.publish(f"{directory}/{claim_name(name, generation)}", [content], token)

    # Removing

    def sweep(self, directory: str, names: Iterable[str]) -> None:
        """Remove published files, in the order of their names; some may be gone already."""
        for name in sorted(names):
            self._remove(self.absolute(f"{directory}/{name}"))

    def sweep_temporary(self, directory: str) -> None:
        """Remove the temporary files in a directory, left by dead writers. A living writer there fails."""
        self.sweep(directory, self.unpublished(directory))

    def remove_tree(self, directory: str, last: Sequence[str] = ()) -> None:
        """Remove a directory with all its content, temporary files of dead writers included.

        A directory that the server still holds for an open file stays behind, without published names.

        Args:
            directory: The directory.
            last: Names that go after all others, in this order, so that an interrupted removal is recognised by them.
        """
        path = self.absolute(directory)
        names = self._names(directory)
        for name in (*(name for name in names if name not in last), *(name for name in last if name in names)):
            try:
                self.files.unlink(f"{path}/{name}")
            except (IsADirectoryError, PermissionError):
                self.remove_tree(f"{directory}/{name}")
            except OSError as error:
                # EBUSY: the name under which NFS keeps a removed file that this machine has open.
                if error.errno not in (errno.ENOENT, errno.EBUSY):
                    raise
        self.remove_if_empty(directory)

    def remove_if_empty(self, directory: str) -> None:
        """Remove an empty directory; any other stays."""
        try:
            self.files.rmdir(self.absolute(directory))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise

    def _names(self, directory: str) -> Sequence[str]:
        path = self.absolute(directory)
        with contextlib.suppress(FileNotFoundError):
            return self.files.listdir(path)
        # This client may only remember that there was no such directory; listing the parent makes it ask again.
        if directory and self.exists(directory):
            with contextlib.suppress(FileNotFoundError):
                return self.files.listdir(path)
        return ()

    def _write_temporary(self, target: str, chunks: Sequence[Buffer]) -> str:
        directory, _, name = target.rpartition("/")
        temporary = f"{directory}/{temporary_name(name)}"
        try:
            self.files.create(temporary, chunks)
        except BaseException:  # the user may have interrupted it
            self._remove(temporary)
            raise
        return temporary

    def _carries(self, path: str, token: str, length: int) -> bool:
        def head(reader: Reader) -> bytes:
            buffer = bytearray(min(length, reader.size))
            reader.readinto(buffer, 0)
            return bytes(buffer)

        try:
            return token.encode() in self.reading(path, head)
        except Gone:
            return False

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(path)


def temporary_name(name: str) -> str:
    """A unique name, which no listing shows."""
    return f"{TEMPORARY}{secrets.token_hex(8)}-{name}"


def claim_name(name: str, generation: int) -> str:
    """File name of a claim in one generation."""
    return f"{name}.g{generation:02d}"


def _read_all(reader: Reader) -> bytes:
    buffer = bytearray(reader.size)
    count = reader.readinto(buffer, 0)
    return bytes(buffer[:count])
