"""The memory of an execution environment, which all functions of a test share: emptied, or put aside for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from estafeta import merge, session, usercode
from estafeta.invocation import read_spec
from estafeta.snapshot import read_plan


def forget() -> None:
    session._warm.clear()
    merge._warm.clear()
    read_spec.cache_clear()
    read_plan.cache_clear()
    usercode._leave()


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    forget()
    yield
    forget()
