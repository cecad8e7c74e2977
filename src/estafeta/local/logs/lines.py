r"""The platform's own lines in a function's log, in Lambda's text format.

Pure functions. Invariant: a line is exactly as CloudWatch shows it: tabs, two decimals of a millisecond, the trailing
tab of REPORT. So tools for Lambda's logs read these lines, too. Source: Lambda Developer Guide, "Viewing CloudWatch
logs for Lambda functions".
"""

import math


def billed_ms(duration_ms: float, init_ms: float | None) -> int:
    """Whole milliseconds that Lambda bills: since August 2025 the init phase, too."""
    return math.ceil(duration_ms + (init_ms or 0.0))


def start_line(request_id: str, version: str) -> str:
    """The START line of an invocation."""
    return f"START RequestId: {request_id} Version: {version}\n"


def end_lines(
    request_id: str,
    *,
    duration_ms: float,
    init_ms: float | None,
    memory_mb: int,
    peak_mb: float,
    status: str = "",
    error_type: str = "",
) -> str:
    """The END and the REPORT line of an invocation.

    Args:
        request_id: Request id of the event.
        duration_ms: Milliseconds from the delivery of the event to the answer.
        init_ms: Milliseconds of the init phase before this event, if there was one.
        memory_mb: Configured limit.
        peak_mb: Largest resident memory; the line shows it up to the limit.
        status: `timeout`, `error` or nothing.
        error_type: Type of the error, for example `Runtime.OutOfMemory`.
    """
    report = (
        f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\t"
        f"Billed Duration: {billed_ms(duration_ms, init_ms)} ms\t"
        f"Memory Size: {memory_mb} MB\tMax Memory Used: {min(math.ceil(peak_mb), memory_mb)} MB\t"
    )
    if init_ms is not None:
        report += f"Init Duration: {init_ms:.2f} ms\t"
    if status:
        report += f"Status: {status}\t"
    if error_type:
        report += f"Error Type: {error_type}\t"
    return f"END RequestId: {request_id}\n{report}\n"


def fault_line(request_id: str, fault: str, name: str) -> str:
    """The line of an injected fault; Lambda has no such line.

    Args:
        request_id: Request id of the event.
        fault: Name of the fault.
        name: Owner of the fault, as the function version says.
    """
    return f"FAULT RequestId: {request_id}\tFault: {fault}\tName: {name}\n"


def init_line(duration_ms: float, status: str, error_type: str = "") -> str:
    """The line of an init phase that failed, or ran into its limit, before any event was delivered."""
    return (
        f"INIT_REPORT Init Duration: {duration_ms:.2f} ms\tPhase: init\tStatus: {status}"
        + (f"\tError Type: {error_type}" if error_type else "")
        + "\n"
    )
