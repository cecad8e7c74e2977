"""The library on its way to AWS: fetch packages, thin them out, pack them in parts, store them in the bucket.

`estafeta.aws.library` unpacks it on the other side. Its name is the digest of the request, so the next deployment with
the same request finds it in the bucket and fetches nothing. Its manifest goes up last: if it is there, all parts are.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from estafeta.aws.bucket import LIBRARIES, Bucket
from estafeta.aws.library import LibraryFile, LibraryManifest, LibraryPart, manifest_key
from estafeta.deploy.code_zip import NEEDS
from estafeta.deploy.wheels import TORCH_BACKEND, Target, installed_here, leave_out, unpack, versions_in
from estafeta.errors import EnvironmentProblem

TORCH = "torch"
LIBRARY_PART_BYTES = 32 << 20
"""Unpacked bytes of a part, about; a larger file is a part by itself."""
PART_FILES = 400
"""Number of files in a part at most: on a network file system each costs some round trips."""
COMPRESSION = 4
"""Level of gzip: a higher one takes several times as long here, and saves a twentieth."""
NEVER_IMPORTED = ("torch/include", "torch/share", "torch/bin", "torch/test", "torchgen/packaged", "bin")
"""Folders of headers, build files and programs, which hold two thirds of PyTorch's files."""
LOOKED_FOR = ("torch/bin/torch_shm_manager",)
"""Files in these folders that PyTorch needs to start, though a function never runs them."""
NEVER_READ = (".pyi", ".pyx", ".pxd", ".h", ".hpp", ".cuh", ".cmake", ".a")


@dataclass(frozen=True)
class Library:
    """The request for a library.

    Attributes:
        extra: Lines of the user's requirements file.
        target: Python and processor.
        torch_backend: Index of PyTorch, as for `unpack`.
    """

    extra: tuple[str, ...]
    target: Target
    torch_backend: str = TORCH_BACKEND

    @classmethod
    def of(cls, lines: Iterable[str], target: Target, torch_backend: str = TORCH_BACKEND) -> Library:
        """The request with the lines of a requirements file."""
        texts = (line.partition(" #")[0].strip() for line in lines)
        return cls(tuple(sorted(text for text in texts if text and not text.startswith("#"))), target, torch_backend)

    @property
    def requirements(self) -> tuple[str, ...]:
        """All requirements: PyTorch, in the version of this Python if the user names no other, and the extra."""
        named = any(re.match(rf"{TORCH}(?![\w.-])", line) for line in self.extra)
        return (*(() if named else installed_here(TORCH)), *self.extra)

    @property
    def digest(self) -> str:
        """The library's name: a digest of requirements, target, PyTorch's index, and the code package's needs."""
        asked = [
            self.requirements,
            self.target.python,
            self.target.architecture,
            self.torch_backend,
            installed_here(*NEEDS),
        ]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def stored(library: Library, bucket: Bucket) -> LibraryManifest | None:
    """The library's manifest, if the bucket has it."""
    key = manifest_key(library.digest)
    return None if bucket.size(key) is None else LibraryManifest.model_validate_json(bucket.read(key))


def fetch(library: Library, folder: Path) -> dict[str, str]:
    """Fetch a library's packages into a folder, without those of the code package.

    Returns:
        Names and versions of the packages.

    Raises:
        EnvironmentProblem, UsageError: `unpack` raised it.
    """
    needs = installed_here(*NEEDS)
    unpack([*library.requirements, *needs], folder, library.target, torch_backend=library.torch_backend)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpack(needs, Path(scratch), library.target)
        leave_out(folder, versions_in(Path(scratch)))
    return versions_in(folder)


def send(
    library: Library, packages: dict[str, str], folder: Path, bucket: Bucket, progress: Callable[[int, int], None]
) -> LibraryManifest:
    """Pack a fetched library, and store it.

    Args:
        library: The request.
        packages: Names and versions from `fetch`.
        folder: Folder of the packages.
        bucket: Bucket that gets the parts.
        progress: Function that is called with the number of stored parts, and of all parts.

    Raises:
        EnvironmentProblem: The bucket cannot be reached; the next attempt uses the parts sent so far.
    """
    groups = list(parts_of(folder, files_of(folder)))
    parts = []
    for number, group in enumerate(groups):
        files = tuple(_describe(folder, path) for path in group)
        packed = pack(folder, group)
        # The name depends on the content, so a part from an interrupted attempt is recognised.
        key = f"{LIBRARIES}{library.digest}/{hashlib.sha256(packed).hexdigest()[:16]}.tar.gz"
        if bucket.size(key) != len(packed):
            bucket.upload(key, packed)
        parts.append(LibraryPart(key=key, files=files))
        progress(number + 1, len(groups))
    manifest = LibraryManifest(
        digest=library.digest,
        requirements=library.requirements,
        extra=library.extra,
        packages=packages,
        python=library.target.python,
        architecture=library.target.architecture,
        torch_backend=library.torch_backend,
        parts=tuple(parts),
    )
    bucket.upload(manifest_key(library.digest), manifest.to_json())
    return manifest


def files_of(folder: Path) -> list[str]:
    """Paths, below a folder of packages, of the files that a function may need, in order.

    Raises:
        EnvironmentProblem: The folder has no such file.
    """
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    found = sorted(path for path in paths if _is_needed(path))
    if not found:
        raise EnvironmentProblem(f"There are no packages in {folder}", hint="free some disk, and deploy once more")
    return found


def parts_of(folder: Path, paths: Sequence[str]) -> Iterator[list[str]]:
    """Cut files into parts of limited size and number."""
    part: list[str] = []
    filled = 0
    for path in paths:
        size = (folder / path).stat().st_size
        if part and (filled + size > LIBRARY_PART_BYTES or len(part) == PART_FILES):
            yield part
            part, filled = [], 0
        part.append(path)
        filled += size
    if part:
        yield part


def pack(folder: Path, paths: Iterable[str]) -> bytes:
    """A `tar.gz` of some files; the same files give the same bytes."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=COMPRESSION, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for path in paths:
            with (folder / path).open("rb") as stream:
                entry = tarfile.TarInfo(path)
                entry.size = (folder / path).stat().st_size
                archive.addfile(entry, stream)
    return packed.getvalue()


def _is_needed(path: str) -> bool:
    unused = path.startswith(tuple(f"{name}/" for name in NEVER_IMPORTED)) and path not in LOOKED_FOR
    return not (unused or "__pycache__/" in path or path.endswith(NEVER_READ) or path == ".lock")


def _describe(folder: Path, path: str) -> LibraryFile:
    with (folder / path).open("rb") as stream:
        return LibraryFile(
            path=path, size=(folder / path).stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest()
        )
