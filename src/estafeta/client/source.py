"""The user's code on the client's side: import a job file, find the source that a run has to take along.

What is shipped is text: the job's module and those that it imports from its own folder, or from that of its package.
Installed packages stay where they are; the functions have their own.
"""

import importlib.util
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

from estafeta.errors import UsageError, UserCodeError
from estafeta.job.job import Job
from estafeta.job.user_code import job_in, user_code


def import_job(place: str) -> tuple[Job, str, dict[str, str]]:
    """Import `JOB.py[:NAME]`.

    Returns:
        The job, where it is (`module:attribute`), and the source text by path relative to the code folder.

    Raises:
        UsageError: There is no such file or no such job.
        UserCodeError: Importing it raised.
    """
    text, _, attribute = place.partition(":")
    path = Path(text).resolve()
    if not path.is_file() or path.suffix != ".py":
        what = "is no Python file" if path.exists() else "does not exist"
        raise UsageError(f"The job file {text} {what}", hint="name it as JOB.py or JOB.py:NAME")
    if not path.stem.isidentifier():
        raise UsageError(f"{path.name} cannot be imported by name", hint="rename it to letters, digits and '_'")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise UsageError(f"{path} cannot be imported", hint="name it as JOB.py or JOB.py:NAME")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    try:
        with user_code(f"importing {path.name}"):
            specification.loader.exec_module(module)
    except UserCodeError as error:
        hint = error.hint or "correct the line that it names"
        if isinstance(error.__cause__, ImportError):
            hint = f"a job file imports by full names, of packages that are installed or in {folder}"
        wrong = UserCodeError(str(error), hint=hint, traceback=error.traceback, exit_code=UsageError.exit_code)
        raise wrong from error.__cause__
    return find_job(job_in(module, attribute or None), module)


def find_job(job: Job, module: ModuleType | None = None) -> tuple[Job, str, dict[str, str]]:
    """Where a job is defined, and the source that goes with it; returns and raises as `import_job` does."""
    loaded = [m for m in list(sys.modules.values()) if isinstance(m, ModuleType)]
    # A script may have imported the job: the module that defines it is the better place to find it.
    candidates = [module] if module else sorted(loaded, key=lambda m: m.__name__ == "__main__")
    for candidate in candidates:
        for name, value in list(vars(candidate).items()):
            path = getattr(candidate, "__file__", None)
            if value is job and path and Path(path).is_file():  # not for standard input
                source = Path(path).resolve()
                module_name, folder = _importable(candidate, source)
                code = {str(source.relative_to(folder)): _text(source), **_beside(folder)}
                return job, f"{module_name}:{name}", code
    if hasattr(sys.modules["__main__"], "In"):
        from estafeta.client.notebook import job_source

        _, place, code = job_source(job)
        return job, place, {**_beside(Path.cwd()), **code}
    raise UsageError(
        "The job is not at the top level of a module, so the functions cannot import it by name",
        hint="assign it at the top level of a file: job = estafeta.Job(…); change it for a run with options={…}",
    )


def _importable(module: ModuleType, source: Path) -> tuple[str, Path]:
    """The name by which a module can be imported, and the folder in which it has that name.

    It lies in a package if it was imported so, or is run by `python -m`; an installed package is not taken along.
    """
    specification = getattr(module, "__spec__", None)
    parts = (specification.name if specification else module.__name__).split(".")
    inside = source.parent if source.name == "__init__.py" else source.with_suffix("")
    folder = Path(*inside.parts[: -len(parts)])
    if folder.joinpath(*parts) == inside and not {"site-packages", "dist-packages"} & set(folder.parts):
        return ".".join(parts), folder
    return source.stem, source.parent


def _beside(folder: Path) -> dict[str, str]:
    """The text of all loaded modules below a folder, by path in it."""
    sources: dict[str, str] = {}
    for module in list(sys.modules.values()):
        given = Path(getattr(module, "__file__", None) or "/")
        if given.suffix != ".py" or not given.is_absolute():  # some are made up: torch.ops is in `_ops.py`
            continue
        path = _resolved(given.parent) / given.name  # as the module's own folder is: either may be told by a link
        if path.is_relative_to(folder) and not _is_installed(path, path.relative_to(folder)):
            sources[str(path.relative_to(folder))] = _text(path)
    return sources


@cache
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _is_installed(path: Path, below: Path) -> bool:
    """Whether a module is Python's, Estafeta's, or an installed package's: an installation may lie below the job."""
    others = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), Path(__file__).parents[1])
    if any(path.is_relative_to(_resolved(Path(other))) for other in others):
        return True
    return any(part in ("site-packages", "dist-packages") or part.startswith(".") for part in below.parts)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not text in UTF-8: {error}", hint="save it in that encoding") from error
