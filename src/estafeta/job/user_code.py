"""The user's code on the function's side: imported by name from a run's `code/` folder, never unpickled.

An environment may serve several runs whose modules have the same names. So importing the code of a run first removes
the modules of the run before from `sys.modules`.
"""

import contextlib
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

from estafeta.errors import EstafetaError, UsageError, UserCodeError
from estafeta.job.job import Job

HINTS = {
    "Expected more than 1 value per channel when training": (
        "a worker's micro-batch is of one row: -o drop_last=true, or another batch_size or micro_batch_size"
    ),
    "is out of bounds.": "classes are numbered from 0, and the model needs an output for each",
}
"""Hints for the user, by a part of PyTorch's message."""

_importing_now = False


def load_job(directory: str, place: str) -> Job:
    """Import the job of a run from its code folder (an absolute path); `place` is `module:attribute`.

    Raises:
        UserCodeError: The module cannot be imported.
        UsageError: There is no such module, or no job of that name in it; the hint lists what there is.
    """
    _enter(directory)
    module_name, _, attribute = place.partition(":")
    try:
        with _importing(), user_code(f"importing {module_name.replace('.', '/')}.py"):
            module = importlib.import_module(module_name)
    except UserCodeError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == module_name:
            there = ", ".join(sorted(found.name for found in pkgutil.iter_modules([directory])))
            raise UsageError(f"The run's code has no module {module_name!r}", hint=f"there is: {there}") from None
        raise
    return job_in(module, attribute)


def is_importing() -> bool:
    """Return whether a function is importing a job now: a script that trains at its top level would start a run."""
    return _importing_now


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    global _importing_now
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the store holds what is published only
    _importing_now = True
    try:
        yield
    finally:
        _importing_now = False
        sys.dont_write_bytecode = writes_bytecode


def job_in(module: ModuleType, attribute: str | None) -> Job:
    """Return the job of a module: by name, or the only one in it.

    Raises:
        UsageError: There is none of that name, or none at all, or more than one; the message lists what there is.
    """
    jobs = {name: value for name, value in vars(module).items() if isinstance(value, Job)}
    place = getattr(module, "__file__", None) or module.__name__
    if not jobs:
        hint = 'assign one: job = estafeta.Job(…), outside of functions and of if __name__ == "__main__"'
        raise UsageError(f"{place} has no estafeta.Job at its top level", hint=hint)
    if not attribute and len(jobs) == 1:
        return next(iter(jobs.values()))
    if attribute in jobs:
        return jobs[attribute]
    what = f"no job named {attribute!r}" if attribute else f"{len(jobs)} jobs"
    raise UsageError(f"{place} has {what}", hint=f"name one of: {', '.join(f'{place}:{name}' for name in jobs)}")


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn an exception of the user's code into `UserCodeError`.

    Errors of the operating system and of memory pass as they are: a retry may not meet them.
    """
    try:
        yield
    except (OSError, MemoryError, EstafetaError):
        raise
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        hint = next((hint for said, hint in HINTS.items() if said in str(error)), "")
        raise UserCodeError(f"{what} raised {type(error).__name__}: {error}", hint=hint, traceback=trace) from error


def _enter(directory: str) -> None:
    if directory not in sys.path:
        _leave()
        sys.path.insert(0, directory)
        importlib.invalidate_caches()


def _leave() -> None:
    for path in [entry for entry in sys.path if entry.endswith("/code") and "/runs/" in entry]:
        sys.path.remove(path)
        for name, module in list(sys.modules.items()):
            if any(place.startswith(path + os.sep) for place in _places_of(module)):
                del sys.modules[name]


def _places_of(module: ModuleType) -> list[str]:
    """Return a module's file and folders; a package without `__init__.py` has no file."""
    attributes = getattr(module, "__dict__", {})  # not getattr of each: modules may make up attributes
    return [str(place) for place in (attributes.get("__file__"), *(attributes.get("__path__") or ()))]
