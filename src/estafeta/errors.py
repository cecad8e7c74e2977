"""Every error that Estafeta raises on purpose, and the commands that their hints name.

    EstafetaError                 exit code 1
    ├── UsageError                exit code 2: the job, an option or the data must change
    │   └── RunNotFound           no run of the store has that name
    ├── EnvironmentProblem        exit code 3: the machine, the account or the service must change
    │   └── Ailment               a check of `estafeta doctor` has failed
    ├── RunFailed                 exit code 1: the run has ended with `failed.json`
    ├── UserCodeError             exit code 1: a callable of the job raised
    ├── NotFinite                 exit code 1: a loss or a gradient is infinite or not a number
    ├── Diverged                  exit code 1: the weights are not finite any more
    ├── FunctionError             exit code 1: a function that was called raised or was killed
    └── StoreError                exit code 3: the shared directory broke a promise
        ├── Conflict              a name is published already, with other content
        ├── Corrupt               a file's content does not fit its header
        └── Gone                  a file was swept after the run had moved past it

Each carries a `hint`: the next command or setting to try. `Command` writes a command into a hint, `parts_of` finds it
there again, so a hint can pass any wire as text, and its reader can still complete the command.
"""

import shlex
from dataclasses import dataclass

MARK = "`"
"""Mark around a command in a text."""
PROGRAMS = ("estafeta", "aws")
"""Programs whose commands are found in a text again."""


@dataclass(frozen=True)
class Command:
    """A command line that a hint names: program and arguments, without the quotes that a shell needs.

    In an f-string the command writes itself between marks: `f"{Command('estafeta', 'runs')} lists them"`.
    """

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words)

    def __str__(self) -> str:
        return self.line if MARK in self.line else f"{MARK}{self.line}{MARK}"


def parts_of(text: str) -> list[str | Command]:
    """The parts of a text in their order: prose as it is, and the commands that were written into it."""
    parts: list[str | Command] = []
    before, *pieces = text.split(MARK)
    parts.append(before)
    while pieces:
        piece = pieces.pop(0)
        if piece.partition(" ")[0] in PROGRAMS and pieces:
            parts += [Command(*shlex.split(piece)), pieces.pop(0)]
        else:  # a mark that stands for itself
            parts[-1] = f"{parts[-1]}{MARK}{piece}"
    return parts


class EstafetaError(Exception):
    """Base of the tree. Its message says what is wrong, and of what.

    Attributes:
        hint: Says what to do about it, in one sentence; empty where no remedy is known.
        exit_code: Exit code of the command line; an argument replaces the usual one of this kind of error.
        round: Name of the run's round in which it was raised, where that is known.
    """

    exit_code = 1
    round: str | None = None

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code
        if hint:
            self.add_note(f"try: {hint}")  # Python prints it below the message


class UsageError(EstafetaError):
    """The caller gave something that cannot work; nothing was changed."""

    exit_code = 2


class RunNotFound(UsageError):
    """No run of the store has that name."""


class EnvironmentProblem(EstafetaError):
    """The surroundings (machine, service, account) do not allow what was asked."""

    exit_code = 3


class Ailment(EnvironmentProblem):
    """A check of `estafeta doctor` has failed; the hint is the cure."""


class RunFailed(EstafetaError):
    """A run has ended in the state `failed`. Its exit code is the one of the cause that the run recorded."""


class UserCodeError(EstafetaError):
    """A callable of the job raised, as its traceback tells. A retry would raise again, so the run ends."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None, traceback: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=exit_code)
        self.traceback = traceback


class NotFinite(EstafetaError):
    """A loss or a gradient is infinite or not a number. A retry computes the same, so the run ends."""


class Diverged(EstafetaError):
    """A step has made weights that are not finite. A retry computes the same, so the run ends."""


class FunctionError(EstafetaError):
    """A function that was called raised an error of that kind, or was killed."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None, kind: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=exit_code)
        self.kind = kind


class StoreError(EstafetaError):
    """The shared directory, or a file in it, is not as the protocol promises."""

    exit_code = 3


class Conflict(StoreError):
    """A name that is published only once exists already, published by another process."""


class Corrupt(StoreError):
    """A published file does not fit its own header: truncated, or its bytes changed."""


class Gone(StoreError):
    """A file that was asked for has been swept: the run has moved past it."""
