"""What went wrong, as a user reads it: headline, cause, remedy, and the command that shows the log.

Pure: turns errors and recorded failures into texts. Knows neither the terminal nor a service.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from estafeta.errors import Command, EstafetaError

if TYPE_CHECKING:
    from estafeta.protocol.spec import Failure

ENVIRONMENT_EXIT = 3
INTERRUPTED_EXIT = 130
"""128 + SIGINT, as a shell has it; also where somebody else has stopped the run."""
INTERNAL_EXIT = 70
"""EX_SOFTWARE of sysexits.h: the program itself is wrong."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?P<where>, in .+)?(?:\n    (?P<code>\S.*))?')
_SHIPPED = re.compile(r"/runs/[^/]+/code/")
"""In the path of a file that a run took along (`layout.RunLayout.code`)."""


@dataclass(frozen=True)
class Complaint:
    """An error as it is printed: what happened and where, the cause, the remedy, the command that shows the log."""

    headline: str
    why: str = ""
    hint: str = ""
    log: str = ""
    exit_code: int = 1

    def lines(self) -> list[tuple[str, str]]:
        """Labels and texts, in the order of reading."""
        parts = [("error", self.headline), ("why", self.why), ("try", self.hint), ("log", self.log)]
        return [(label, text) for label, text in parts if text]


def of_error(error: Exception) -> Complaint:
    """What to say about an exception that ended a command."""
    if isinstance(error, EstafetaError):
        why = line_in(getattr(error, "traceback", ""), _is_local)
        return Complaint(str(error), why, error.hint, exit_code=error.exit_code)
    if type(error).__module__.partition(".")[0] == "botocore":
        hint = "is the service reachable, with these credentials?"
        return Complaint(str(error), hint=hint, exit_code=ENVIRONMENT_EXIT)
    if isinstance(error, OSError):
        return Complaint(str(error), hint=_elsewhere(error), exit_code=ENVIRONMENT_EXIT)
    return Complaint(
        f"internal error: {type(error).__name__}: {error}",
        hint="run it again with -v and report what it prints",
        exit_code=INTERNAL_EXIT,
    )


def _elsewhere(error: OSError) -> str:
    """What to do about a file that cannot be had, if it is one of the local service's."""
    from estafeta.client.backend import home

    is_ours = isinstance(error.filename, str) and Path(error.filename).is_relative_to(home())
    return "ESTAFETA_HOME=FOLDER has runs and data sets kept elsewhere" if is_ours else ""


def of_failure(failure: Failure, run: str, on: str) -> Complaint:
    """What to say about a run that has failed."""
    inline = on == "inline"  # the module that failed is then the one that this process has imported; there is no log
    role = failure.function.rpartition("-")[2]
    flags = ["--function", role] if role else []
    flags += ["--rank", str(failure.rank)] if failure.rank is not None else []
    log = "" if inline else f"{Command('estafeta', 'logs', run, *flags)}"
    why = line_in(failure.traceback, _is_local if inline else lambda file: bool(_SHIPPED.search(file)))
    return Complaint(failure.message, why=why, hint=failure.hint, log=log, exit_code=failure.exit_code)


def line_in(traceback: str, is_users: Callable[[str], bool]) -> str:
    """The innermost line of a traceback that the user wrote: file, line, function, code; empty if there is none."""
    own = [frame for frame in _FRAME.finditer(traceback) if is_users(frame["file"])]
    if not own:
        return ""
    frame = own[-1]
    code = f": {frame['code']}" if frame["code"] else ""
    return f"{PurePath(frame['file']).name}, line {frame['line']}{frame['where'] or ''}{code}"


def _is_local(file: str) -> bool:
    """Whether a file on this machine is neither Estafeta's, nor Python's, nor that of an installed package."""
    others = (str(Path(__file__).parents[2]), sysconfig.get_path("stdlib"), "<")
    return not file.startswith(others) and "-packages/" not in file
