"""The functions' code package: Estafeta's own modules and the needs of `merge` and `control`, in one zip file.

All three functions have the same package. PyTorch is not in it, so functions that never import it do not carry it.
boto3 and Lambda's runtime client belong to the managed runtime. Invariant: the same versions give the same bytes, so an
unchanged package is neither uploaded nor deployed again.
"""

import compileall
import hashlib
import py_compile
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import estafeta
from estafeta.deploy.wheels import Target, installed_here, unpack
from estafeta.errors import UsageError

NEEDS = ("isal", "numpy", "pydantic")
"""Packages that the functions import beside PyTorch and those of the managed runtime."""
CLIENT_ONLY = ("cli", "client", "data/importing", "deploy", "local")
"""Parts of Estafeta that no function imports."""
UNZIPPED_LIMIT_BYTES = 250 << 20
"""Bytes of a function's package at most (AWS Lambda Developer Guide, "Lambda quotas")."""
METADATA = ("RECORD", "direct_url.json", "INSTALLER", "REQUESTED", "uv_cache.json")
"""Names of files about an installation, which differ from one to the next."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all files in the package, the oldest that a zip file can express: the bytes must not depend on the date."""


@dataclass(frozen=True)
class CodePackage:
    """A zip file to deploy.

    Attributes:
        digest: SHA-256 of its bytes, in hex.
        zipped_bytes: Size of the file.
        unzipped_bytes: Size of its content, which Lambda limits.
        compiled: Whether it has the modules' bytecode, which only the functions' own version of Python can make.
    """

    path: Path
    digest: str
    zipped_bytes: int
    unzipped_bytes: int
    compiled: bool


def build_code(folder: Path, target: Target) -> CodePackage:
    """Make the code package.

    Args:
        folder: Existing folder for the package.
        target: Python and processor of the functions.

    Raises:
        EnvironmentProblem: Packages could not be fetched.
        UsageError: There are no wheels for the target, or the package is too large for Lambda.
    """
    compiled = target.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch)
        unpack(installed_here(*NEEDS), root, target)
        _copy_estafeta(root / "estafeta")
        _tidy(root)
        if compiled:
            compile_tree(root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size > UNZIPPED_LIMIT_BYTES:
            raise UsageError(
                f"The code package has {size >> 20} MB unzipped, more than the 250 MB that Lambda takes",
                hint="install smaller versions of numpy and pydantic here, and deploy once more",
            )
        path = folder / "code.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                entry = zipfile.ZipInfo(str(file.relative_to(root)), EPOCH)
                entry.external_attr = 0o644 << 16  # Lambda's user must be able to read it
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return CodePackage(path, digest, path.stat().st_size, size, compiled)


def compile_tree(root: Path) -> None:
    """Write the bytecode of all modules below a folder; importing does not compare it with the source's time."""
    compileall.compile_dir(
        root, quiet=2, stripdir=str(root), workers=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def _copy_estafeta(folder: Path) -> None:
    source = Path(estafeta.__file__).parent
    client_only = {str(source / name) for name in CLIENT_ONLY}

    def ignored(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or f"{directory}/{name}" in client_only]

    shutil.copytree(source, folder, ignore=ignored)


def _tidy(root: Path) -> None:
    """Remove files for developers, and files that differ from one unpacking to the next."""
    for name in ("bin", ".lock"):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for pattern in ("*.pyi", *(f"*.dist-info/{name}" for name in METADATA)):
        for path in list(root.rglob(pattern)):
            path.unlink()
