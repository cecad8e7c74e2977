"""The job of a run, imported from the source that the run has taken along.

The modules of a run may have the names of modules that this process uses. They are imported under their own names, as
in the functions, but beside `sys.modules`: afterwards the process has the modules that it had before.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estafeta.job.user_code import load_job, user_code

if TYPE_CHECKING:
    import torch


def make_model(code: Mapping[str, str], place: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Make the model of a run's job, with weights that mean nothing yet.

    The source is text by path; the job's place in it is `module:attribute`. A module that the model imports later, in
    its `forward`, is one of this process.

    Raises:
        UserCodeError: The module cannot be imported, or the model cannot be made.
        UsageError: The source has no such job.
    """
    with tempfile.TemporaryDirectory(prefix="estafeta-") as folder:
        for path, text in code.items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        with _beside_the_modules_of_this_process(folder):
            job = load_job(folder, place)
            with user_code("model()"):
                return job.model(**arguments)


@contextmanager
def _beside_the_modules_of_this_process(folder: str) -> Iterator[None]:
    """Let the modules of a folder be imported; then forget them, and bring back those whose names they have."""
    names = {path.stem for path in Path(folder).iterdir()}
    path, aside = list(sys.path), {name: module for name, module in sys.modules.items() if _top(name) in names}
    for name in aside:
        del sys.modules[name]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _top(name) in names]:
            del sys.modules[name]
        sys.modules.update(aside)
        sys.path[:] = path


def _top(name: str) -> str:
    return name.partition(".")[0]
