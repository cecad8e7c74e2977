"""Every error that Estafeta raises on purpose.

    EstafetaError                 exit code 1
    ├── UsageError                exit code 2: the job, an option or the data must change
    ├── EnvironmentProblem        exit code 3: the machine, the account or the service must change
    ├── RunFailed                 exit code 1: the run has ended with `failed.json`
    ├── RunNotFound               exit code 2
    ├── FunctionError             exit code 1: a function that was called raised or was killed
    ├── NotFinite                 exit code 1: a loss or a gradient is NaN or infinite
    ├── Diverged                  exit code 1: a step made parameters that are NaN or infinite
    └── StoreError                exit code 3: the shared directory broke a promise
        ├── Conflict              a name is published already, with other content
        ├── Corrupt               a file's content does not fit its header
        └── Gone                  a file was swept after the run had moved past it

Each carries a `hint`: the next command or setting to try.
"""

from __future__ import annotations


class EstafetaError(Exception):
    """Base of the tree.

    Attributes:
        hint: What to do about it, in one sentence; empty where nothing is known to help.
        exit_code: Exit code of the command line for this kind of error.
        round: Name of the run's round in which it was raised, where that is known.
    """

    exit_code = 1
    round: str | None = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"try: {hint}")  # which Python prints below the message


class UsageError(EstafetaError):
    """The caller gave something that cannot work; nothing was changed."""

    exit_code = 2


class EnvironmentProblem(EstafetaError):
    """The surroundings (machine, service, account) do not allow what was asked."""

    exit_code = 3


class RunFailed(EstafetaError):
    """A run has ended in the state `failed`.

    The exit code depends on the cause that the run recorded, so it is kept per instance.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class RunNotFound(UsageError):
    """There is no run of that name in the store."""


class FunctionError(EstafetaError):
    """A function that was called raised or was killed.

    Attributes:
        kind: Name of the error in the function.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind


class NotFinite(EstafetaError):
    """The loss or the gradient is NaN or infinite."""


class Diverged(EstafetaError):
    """The optimiser's step gave parameters that are not finite."""


class StoreError(EstafetaError):
    """The shared directory, or a file in it, is not as the protocol promises."""

    exit_code = 3


class Conflict(StoreError):
    """A name that is published only once exists already, published by somebody else."""


class Corrupt(StoreError):
    """A published file does not fit its own header: truncated, or its bytes changed."""


class Gone(StoreError):
    """A file that was asked for has been swept: the run has moved past it."""
