"""The chain of calls that led to an invocation, and the guard against endless ones.

Pure functions on the trace header. Lambda counts how often each function occurs in a chain. The runtime hands the
header to the function, and its AWS SDK sends it along with the next call. Invariant: a chain's counts never decrease
while functions forward it. Source: Lambda Developer Guide, "Use Lambda recursive loop detection to prevent infinite
loops". AWS does not document the inner form of `Lineage=`; here it is `<hash>:<count>`, joined by commas, which
botocore does not escape.
"""

import hashlib
import random
import time
from functools import lru_cache

LIMIT = 16  # "approximately 16 times" in the source above


def count_call(trace: str, arn: str) -> tuple[str, int]:
    """Add one call to a chain.

    Args:
        trace: Value of X-Amzn-Trace-Id from the caller; an empty one begins a chain.
        arn: ARN of the called function, without a qualifier.

    Returns:
        Trace header for this call, and number of times that the function occurs in the chain *before* it.
    """
    fields = dict(part.strip().partition("=")[::2] for part in trace.split(";")) if trace else {}
    counts: dict[str, int] = {}
    for entry in fields.get("Lineage", "").split(","):
        name, _, count = entry.rpartition(":")
        if name and count.isdigit():
            counts[name] = int(count)
    own = _fingerprint(arn)
    before = counts.get(own, 0)
    counts[own] = before + 1
    root = fields.get("Root") or f"1-{int(time.time()):08x}-{random.getrandbits(96):024x}"
    lineage = ",".join(f"{name}:{count}" for name, count in counts.items())
    return f"Root={root};Parent={random.getrandbits(64):016x};Sampled=0;Lineage={lineage}", before


@lru_cache(maxsize=1024)
def _fingerprint(arn: str) -> str:
    return hashlib.sha256(arn.encode()).hexdigest()[:8]
