"""What `control` says of the data sets of the store: which there are, what is in one, whether it is whole.

A data set may be larger than what can be read within a time limit, so it is verified in legs: each says from which
block on the next one is to go on, and nothing is remembered between them.
"""

from __future__ import annotations

from typing import Any

from estafeta import waiting
from estafeta.data.catalog import names, read_block, read_manifest, verify
from estafeta.data.preview import preview
from estafeta.errors import UsageError
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.verbs import DescribeVerb, VerifyVerb
from estafeta.store.store import Store


def datasets(store: Store) -> list[dict[str, Any]]:
    """Each data set: what tells it from others, and how large it is.

    Raises:
        Corrupt: A manifest cannot be read.
    """
    manifests = [read_manifest(store, name) for name in names(store)]
    return [
        {
            "name": m.name,
            "token": m.token,
            "created_at": m.created_at,
            "rows": m.rows,
            "bytes": m.bytes,
            "blocks": len(m.blocks),
        }
        for m in manifests
    ]


def describe(verb: DescribeVerb, store: Store) -> dict[str, Any]:
    """One data set: its `manifest`, `columns` of the preview by name, and the first `rows` as texts.

    Raises:
        UsageError: There is none of that name.
        Corrupt: Its manifest or its first block cannot be read.
    """
    manifest = read_manifest(store, verb.dataset)
    columns, rows = preview(manifest, read_block(store, manifest, 0), verb.rows)
    return {"manifest": manifest.model_dump(mode="json"), "columns": columns, "rows": rows}


def verify_some(verb: VerifyVerb, invocation: Invocation) -> dict[str, Any]:
    """Compare blocks with their digests: at least one, and as many as the time allows.

    Returns:
        `checked`: how many blocks have been found whole, counted from the first of all.

    Raises:
        UsageError: There is no such data set, or another one of the name.
        Corrupt: A block is damaged.
    """
    store = invocation.store
    manifest = read_manifest(store, verb.dataset)
    if manifest.token != verb.token:
        raise UsageError(
            f"the data set {verb.dataset!r} has been replaced meanwhile",
            hint=f"estafeta data verify {verb.dataset}, once more",
        )
    deadline = Deadline(invocation.remaining_s, now=store.clock.monotonic, longest_s=waiting.LONGEST_ANSWER_S)
    checking, checked = verify(store, manifest, verb.first), verb.first
    while checked < len(manifest.blocks) and (checked == verb.first or not deadline.is_near()):
        with deadline.step():
            checked = next(checking) + 1
    return {"checked": checked}
