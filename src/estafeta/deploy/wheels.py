"""Packages for another machine than this one: resolved and unpacked for Lambda's Python and processor.

uv does the work. pip can fetch wheels for another platform, too, but it evaluates the markers in their dependencies for
its own machine (pip issue 11664). So it would fetch NVIDIA's libraries for a processor that cannot use them. uv
compiles nothing: it refuses a package without a wheel.
"""

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Literal

from estafeta.errors import EnvironmentProblem, UsageError

Architecture = Literal["arm64", "x86_64"]
GLIBC = "2_34"
"""Version of glibc in Amazon Linux 2023, the system of Lambda's Python 3.12 and newer (AWS Lambda Developer Guide,
"Lambda runtimes")."""
PYTHONS = ("3.12", "3.13", "3.14")
"""Versions to deploy for. Python 3.11 on Lambda is Amazon Linux 2, whose glibc is too old for PyTorch's wheels."""
TORCH_BACKEND = "cpu"
"""Index of PyTorch's own from which it comes; PyPI's wheels bring CUDA along on some platforms."""
NO_BACKEND = "none"
"""Name that replaces an index of PyTorch's own, and leaves the choice to the user's configuration of uv."""


@dataclass(frozen=True)
class Target:
    """The Python and processor of the packages.

    Attributes:
        python: Version of Python, such as `3.13`.
        architecture: Processor of the functions, in Lambda's words.
    """

    python: str
    architecture: Architecture

    @property
    def platform(self) -> str:
        """The platform in uv's words."""
        return f"{'aarch64' if self.architecture == 'arm64' else 'x86_64'}-manylinux_{GLIBC}"


def unpack(requirements: Sequence[str], folder: Path, target: Target, *, torch_backend: str = TORCH_BACKEND) -> None:
    """Resolve requirements with all their dependencies, and unpack the wheels into a folder.

    Args:
        requirements: Lines of a requirements file.
        folder: Folder that gets the packages; uv makes it if needed.
        target: Python and processor.
        torch_backend: Value for uv's `--torch-backend`, or `NO_BACKEND`.

    Raises:
        EnvironmentProblem: uv is not installed, or an index cannot be reached.
        UsageError: There is no wheel for one of the requirements, or they contradict each other.
    """
    options = f"--quiet --python-version {target.python} --python-platform {target.platform}"
    command = [
        *(_uv(), "pip", "install", "--target", str(folder)),
        *f"{options} --only-binary :all: --link-mode copy".split(),
        *(() if torch_backend == NO_BACKEND else ("--torch-backend", torch_backend)),
        *requirements,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "UV_NO_PROGRESS": "1"})
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    what = f"The packages for {target.architecture}, Python {target.python}"
    if "No solution found" in said:
        raise UsageError(
            f"{what} contradict each other, or have no wheel:\n{said}",
            hint="change the versions in --requirements, or --python, and try again",
        )
    raise EnvironmentProblem(
        f"{what} cannot be fetched:\n{said}", hint="see uv's message; it takes its settings from UV_…"
    )


def installed_here(*names: str) -> list[str]:
    """Requirements for the exact versions of this Python, so that both machines compute the same bits.

    A package that is not installed here has no version in its requirement.
    """
    return [_requirement(name) for name in names]


def versions_in(folder: Path) -> dict[str, str]:
    """Names and versions of the distributions in a folder."""
    return {found.name.lower().replace("_", "-"): found.version for found in distributions(path=[str(folder)])}


def leave_out(folder: Path, names: Iterable[str]) -> None:
    """Remove some distributions from a folder, with their metadata."""
    unwanted = set(names)
    for found in list(distributions(path=[str(folder)])):
        if found.name.lower().replace("_", "-") in unwanted:
            for file in found.files or ():
                Path(str(file.locate())).unlink(missing_ok=True)
    for directory in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(directory.iterdir()):
            directory.rmdir()


def _requirement(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return name


def _uv() -> str:
    try:
        from uv import find_uv_bin
    except ImportError:
        raise EnvironmentProblem(
            "uv, which fetches packages for another machine, is not installed", hint="pip install 'estafeta[aws]'"
        ) from None
    return find_uv_bin()
