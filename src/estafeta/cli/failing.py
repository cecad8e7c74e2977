"""What went wrong, as a user reads it: headline, cause, remedy, and the command that shows the log.

Pure: turns errors and recorded failures into texts. Knows neither the terminal nor a service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from estafeta.errors import EstafetaError

if TYPE_CHECKING:
    from estafeta.spec import Failure

ENVIRONMENT_EXIT = 3
INTERNAL_EXIT = 70
"""EX_SOFTWARE of sysexits.h: the program itself is wrong."""

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)(?:\n\s+(?P<code>.+))?')
_NOT_THE_USERS = ("site-packages/", "dist-packages/", "/estafeta/", "<frozen", "/lib/python")


@dataclass(frozen=True)
class Complaint:
    """An error as it is printed.

    Attributes:
        headline: What happened, and where.
        why: The cause, where it is known.
        hint: What to do about it.
        log: The command that shows the log.
        exit_code: Exit code of the command.
    """

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
        return Complaint(
            str(error), why=users_line(getattr(error, "traceback", "")), hint=error.hint, exit_code=error.exit_code
        )
    if type(error).__module__.partition(".")[0] == "botocore":
        return Complaint(str(error), hint="is the service reachable, with these credentials?", exit_code=ENVIRONMENT_EXIT)
    if isinstance(error, OSError):
        return Complaint(str(error), exit_code=ENVIRONMENT_EXIT)
    return Complaint(
        f"internal error: {type(error).__name__}: {error}",
        hint="run it again with -v and report what it prints",
        exit_code=INTERNAL_EXIT,
    )


def of_failure(failure: Failure, run: str, on: str) -> Complaint:
    """What to say about a run that has failed."""
    log = "" if on == "inline" else _log_command(failure, run, on)
    return Complaint(
        failure.message, why=users_line(failure.traceback), hint=failure.hint, log=log, exit_code=failure.exit_code
    )


def users_line(traceback: str) -> str:
    """The innermost line of a traceback that the user wrote: file, line, function, code; empty if there is none."""
    own = [f for f in _FRAME.finditer(traceback) if not any(part in f["file"] for part in _NOT_THE_USERS)]
    if not own:
        return ""
    frame = own[-1]
    code = f": {frame['code'].strip()}" if frame["code"] else ""
    return f"{PurePath(frame['file']).name}, line {frame['line']}, in {frame['function']}{code}"


def _log_command(failure: Failure, run: str, on: str) -> str:
    role = failure.function.rpartition("-")[2]
    parts = ["estafeta", "logs", run]
    parts += ["--function", role] if role else []
    parts += ["--rank", str(failure.rank)] if failure.rank is not None else []
    parts += ["--on", on] if on == "aws" else []
    return " ".join(parts)
