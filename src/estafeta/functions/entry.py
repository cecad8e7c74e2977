"""The door of all three functions: what Lambda hands to a handler becomes an `Invocation`.

Must not know which function was called.
"""

import os
import time
from functools import lru_cache
from typing import Any

from estafeta.aws.lambda_api import LambdaInvoker
from estafeta.cost.meter import Meter
from estafeta.protocol.invocation import PROCESS, Invocation
from estafeta.store.files import OsFiles
from estafeta.store.store import Store


def _age_s() -> float:
    """Seconds since this process was started: proc(5), field 22."""
    with open("/proc/self/stat", encoding="ascii") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


INIT_S = _age_s()
"""How long the init phase took, if this is a function's process. Lambda does not tell, but the phase ends when the
handler is imported, of which this module is one of the last parts; and it began a little before the process did."""
METER = Meter()
"""Counts the file operations of the invocation that this process is at: there is one at a time."""


def invocation_of(context: Any) -> Invocation:
    """Read the context object that Lambda hands to a handler, and the environment variables of the template."""
    METER.reset()
    init_s = 0.0 if PROCESS.has_started else INIT_S
    PROCESS.has_started = True
    return Invocation(
        store=_store(os.environ["ESTAFETA_ROOT"]),
        connect=LambdaInvoker,
        token=context.aws_request_id,
        remaining_s=lambda: context.get_remaining_time_in_millis() / 1000,
        function=context.function_name,
        log_group=context.log_group_name or "",
        log_stream=context.log_stream_name or "",
        meter=METER,
        init_s=init_s,
    )


@lru_cache(maxsize=4)
def _store(root: str) -> Store:
    return Store(root, OsFiles(METER))
