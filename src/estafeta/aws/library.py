"""The library: a folder on the shared file system with PyTorch and the jobs' other packages, since no zip can hold it.

`estafeta deploy` brings it to the bucket in parts. `control` unpacks them (`install`), for as long as its time allows,
and again until all are there. The worker puts the folder on `sys.path` (`enter`).

`control` publishes files like everything else: complete, under their names, once. An installer of a part that another
has unpacked finds its files and writes none. So an installation may be repeated, or run twice at the same time, while
workers already use its files. A worker looks for the file `ready`, which comes last.
"""

import hashlib
import importlib.util
import io
import os
import py_compile
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from estafeta import waiting
from estafeta.aws.bucket import LIBRARIES, Bucket
from estafeta.errors import Command, Corrupt, EnvironmentProblem
from estafeta.protocol.layout import LibraryLayout
from estafeta.protocol.spec import Document
from estafeta.store.store import Store, new_token

MARGIN_S = 25.0
"""Seconds before the end of an invocation in which `install` begins no more files: PyTorch's largest has 0.4 GB."""
CHUNK_BYTES = 1 << 20
VARIABLE = "ESTAFETA_LIBRARY"
"""Environment variable of the worker with the library's digest."""


class LibraryFile(Document):
    """A file of a library: path below its folder, bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class LibraryPart(Document):
    """A `tar.gz` in the bucket, and the files in it."""

    key: str
    files: tuple[LibraryFile, ...]


class LibraryManifest(Document):
    """The content of a library; the bucket has it as `libraries/<digest>/manifest.json`.

    Attributes:
        digest: Digest of the request; the library's name.
        requirements: All requirements of the request.
        extra: Requirements of the user's among them.
        packages: Versions of the resolved packages, by name.
        python: Version of Python.
        architecture: Processor.
        torch_backend: Index of PyTorch.
    """

    format: Literal["estafeta-library/1"] = "estafeta-library/1"
    digest: str
    requirements: tuple[str, ...]
    extra: tuple[str, ...]
    packages: dict[str, str]
    python: str
    architecture: str
    torch_backend: str
    parts: tuple[LibraryPart, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for part in self.parts for file in part.files)


class Progress(Document):
    """The progress of an installation."""

    library: str
    done: int
    parts: int

    @property
    def ready(self) -> bool:
        """Whether all parts are there."""
        return self.done == self.parts


class _TimeIsUp(Exception):
    """The invocation must end; unpacked files stay."""


def manifest_key(digest: str) -> str:
    """Key of a library's manifest in the bucket."""
    return f"{LIBRARIES}{digest}/manifest.json"


def install(digest: str, store: Store, bucket: Bucket, remaining_s: Callable[[], float]) -> Progress:
    """Unpack a library as far as the time allows; call again until it is ready. Repeating it changes nothing.

    Args:
        digest: Digest of the library.
        store: Store that gets the files.
        bucket: Bucket with the parts.
        remaining_s: Function that gives the seconds until Lambda kills this one.

    Raises:
        UsageError: The bucket has no such library.
        Corrupt: The arrived bytes are not the sent ones.
    """
    layout = LibraryLayout(digest)
    manifest = LibraryManifest.model_validate_json(bucket.read(manifest_key(digest)))
    parts = len(manifest.parts)
    if not store.exists(layout.ready):
        for directory in (layout.files, layout.parts):
            store.make_directories(directory)
        ends_at = store.clock.monotonic() + min(waiting.LONGEST_ANSWER_S, remaining_s() - MARGIN_S)

        def watch_time() -> None:
            if store.clock.monotonic() >= ends_at:
                raise _TimeIsUp

        done = {int(name) for name in store.list(layout.parts)}
        try:
            for number in sorted(set(range(parts)) - done):
                _unpack(manifest.parts[number], layout, store, bucket, watch_time)
                _say(layout.part(number), store)
                done.add(number)
        except _TimeIsUp:
            return Progress(library=digest, done=len(done), parts=parts)
        _say(layout.ready, store)
    return Progress(library=digest, done=parts, parts=parts)


def enter(store: Store) -> None:
    """Put the function's library on `sys.path`, behind its own code, if it has a library.

    Raises:
        EnvironmentProblem: The library is not installed.
    """
    digest = os.environ.get(VARIABLE)
    if not digest:
        return
    layout = LibraryLayout(digest)
    path = store.absolute(layout.files)
    if path in sys.path:
        return
    if not store.exists(layout.ready):
        raise EnvironmentProblem(
            f"The library {digest} is not installed completely", hint=f"{Command('estafeta', 'deploy')} completes it"
        )
    sys.path.insert(1, path)


def _unpack(
    part: LibraryPart, layout: LibraryLayout, store: Store, bucket: Bucket, watch_time: Callable[[], None]
) -> None:
    """Publish the missing files of a part, and the bytecode of Python files."""
    wanted = {file.path: file for file in part.files}
    there: dict[str, frozenset[str]] = {}

    def is_there(path: str) -> bool:
        directory, _, name = path.rpartition("/")
        if directory not in there:
            store.make_directories(directory)
            there[directory] = store.list(directory)
        return name in there[directory]

    stream = _Stream(bucket.stream(part.key))
    with tarfile.open(fileobj=stream, mode="r|gz", bufsize=CHUNK_BYTES) as archive:
        for member in archive:
            file = wanted.pop(member.name, None)
            if file is None or file.path.startswith("/") or ".." in file.path.split("/"):
                raise Corrupt(f"{part.key} has {member.name}, which does not belong there")
            target = f"{layout.files}/{file.path}"
            bytecode = (
                f"{layout.files}/{importlib.util.cache_from_source(file.path)}" if file.path.endswith(".py") else None
            )
            missing = [path for path in (target, bytecode) if path and not is_there(path)]
            if not missing:
                continue
            watch_time()
            content = archive.extractfile(member)
            assert content is not None, f"{part.key}: {member.name} is no file"
            if bytecode is None:
                store.place(target, _checked(content, file))
                continue
            source = b"".join(_checked(content, file))
            store.place(target, [source])
            if compiled := _compile(source, store.absolute(target)):
                store.place(bytecode, [compiled])
    if wanted:
        raise Corrupt(f"{part.key} lacks {', '.join(sorted(wanted)[:3])}")


def _checked(content: IO[bytes], file: LibraryFile) -> Iterator[bytes]:
    """A file's content piece by piece; raises `Corrupt` at its end if the bytes are not the sent ones."""
    digest = hashlib.sha256()
    while chunk := content.read(CHUNK_BYTES):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != file.sha256:
        hint = f"run {Command('estafeta', 'deploy')} once more"
        raise Corrupt(f"{file.path} of the library did not arrive as it was sent", hint=hint)


def _compile(source: bytes, path: str) -> bytes | None:
    """A module's bytecode, which Python does not compare with the source's time; None for another version's source.

    The Python that will read the bytecode makes it here; the client may have another.
    """
    with tempfile.TemporaryDirectory() as scratch:
        plain, compiled = Path(scratch, "module.py"), Path(scratch, "module.pyc")
        plain.write_bytes(source)
        try:
            py_compile.compile(
                str(plain),
                str(compiled),
                path,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except py_compile.PyCompileError:
            return None
        return compiled.read_bytes()


def _say(path: str, store: Store) -> None:
    token = new_token()
    store.publish(path, [token.encode()], token)


class _Stream(io.RawIOBase):
    """A file to read from, over pieces as they arrive."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, None)):
            self._rest += piece
        some, self._rest = self._rest[:size], self._rest[size:]
        return some
