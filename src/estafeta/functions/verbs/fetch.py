"""A part of an exported file on its way to the client: in the answer if it fits there, else through S3.

A synchronous invocation may return 6 MB. What is larger goes into the stack's bucket, part by part, and the answer has
an address from which the client fetches that part. Each part is one short invocation, so no file is too large for the
time limit or the memory of `control`.
"""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from estafeta.aws.bucket import EXPORTS, Bucket
from estafeta.errors import Command, Gone, UsageError
from estafeta.functions.verbs.clean import export_if_missing
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.verbs import FetchVerb
from estafeta.store.files import Reader

ANSWER_BYTES = 4 << 20
"""Bytes of a file in one answer: with base64 and the rest of the answer it stays under 6 MB."""
PIECE_BYTES = 32 << 20
"""Bytes of a file in one object: `control` holds them in memory, and moves them in a second or two."""


def fetch(verb: FetchVerb, folder: RunFolder, token: str, bucket_of: Callable[[str], Bucket]) -> dict[str, Any]:
    """A part of an exported file. A failed run has none of its own accord: its last good version is exported now.

    Returns:
        `size` of the file in bytes; and either `data`, the part in base64, or of the part in the bucket its `url`, its
        `key`, its `length` and its `sha256`.

    Raises:
        UsageError: The run is at work, or has no such file.
    """
    export_if_missing(verb.which, folder, token)
    limit = PIECE_BYTES if verb.bucket else ANSWER_BYTES

    def read(reader: Reader) -> tuple[bytes, int]:
        buffer = bytearray(max(0, min(limit, reader.size - verb.offset)))
        reader.readinto(buffer, verb.offset)
        return bytes(buffer), reader.size

    try:
        data, size = folder.store.reading(f"{folder.layout.export(verb.which)}/{verb.file}", read)
    except Gone as error:
        raise UsageError(
            f"{folder.run} has no {verb.which}/{verb.file}",
            hint=f"see what it has: {Command('estafeta', 'inspect', folder.run)}",
        ) from error
    if verb.bucket is None or len(data) <= ANSWER_BYTES:
        return {"data": base64.b64encode(data).decode(), "size": size}
    bucket, key = bucket_of(verb.bucket), f"{EXPORTS}{folder.run}/{token}"
    bucket.upload(key, data)
    digest = hashlib.sha256(data).hexdigest()
    return {"url": bucket.link(key), "key": key, "length": len(data), "sha256": digest, "size": size}
