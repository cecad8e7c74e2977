"""The memory of an execution environment, which all functions of a test share: emptied, or put aside for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from estafeta.job import user_code
from estafeta.protocol.invocation import PROCESS
from estafeta.protocol.run_folder import open_folder, read_plan
from estafeta.protocol.warm import Warm


def forget() -> None:
    """Make this process a new execution environment: nothing of earlier invocations is in memory."""
    vars(PROCESS).update(vars(Warm()))
    open_folder.cache_clear()
    read_plan.cache_clear()
    user_code._leave()


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """In another execution environment; this one is as it was when it goes on."""
    kept = dict(vars(PROCESS))
    forget()
    yield
    forget()
    vars(PROCESS).update(kept)
