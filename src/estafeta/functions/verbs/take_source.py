"""The source of a job on its way to a run: in the event that starts it, or through S3, where there is a bucket.

    files that are not in the bucket yet → bucket → `control`, which compares them with their digests → the run's folder

A file is called by its SHA-256 in the bucket. So what has arrived once, with this run or with another, is not sent
again; and nobody removes it, since others may be about to start with it: the bucket forgets it after some days.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from estafeta.aws.bucket import FILES_AT_A_TIME, UPLOADS, Bucket
from estafeta.errors import Corrupt, UsageError

SOURCES = f"{UPLOADS}source/"
"""Beginning of the keys under which source waits; the digests of the files follow."""

MOST_IN_EVENT = 4 << 20
"""Bytes of source that the payload of a synchronous invocation (6 MB) has room for, as JSON."""

MOST_IN_BUCKET = 32 << 20
"""Bytes of source that `control` takes: it holds all of it as text, in half of its memory (512 MB), and one invocation
publishes it, in seconds of its minutes."""


def check_size(code: Mapping[str, str], bucket: Bucket | None) -> None:
    """Refuse more source than can be sent.

    Raises:
        UsageError: There is more.
    """
    most = MOST_IN_EVENT if bucket is None else MOST_IN_BUCKET
    size = sum(len(text.encode()) for text in code.values())
    if size > most:
        raise UsageError(
            f"the job has {size / 1e6:.1f} MB of imported source, more than {most / 1e6:.1f} MB",
            hint="move it to a folder of its own, or install the rest as a package",
        )


def send_source(code: Mapping[str, str], bucket: Bucket) -> Iterator[int]:
    """Upload what is not in the bucket yet; yields the bytes that are there of it, after each upload.

    Args:
        code: Text by path relative to the code folder.
        bucket: Where to.

    Raises:
        EnvironmentProblem: The bucket cannot be reached.
    """
    yield from bucket.upload_missing(SOURCES, {_digest(text.encode()): text.encode() for text in code.values()})


def enclosure(code: Mapping[str, str], bucket: Bucket | None) -> dict[str, Any]:
    """What the event that starts a run has of its source: the text, or where it lies, if it was sent."""
    if bucket is None:
        return {"code": code}
    return {"uploaded": {"bucket": bucket.name, "files": {path: _digest(t.encode()) for path, t in code.items()}}}


def take_source(files: Mapping[str, str], bucket: Bucket) -> dict[str, str]:
    """The source that was sent: text by path.

    Args:
        files: SHA-256, in hex, by path.
        bucket: Where it lies.

    Raises:
        UsageError: A file is not there.
        Corrupt: A file is not what was sent.
    """

    def take(digest: str) -> str:
        key = SOURCES + digest
        if _digest(content := bucket.read(key)) != digest:
            raise Corrupt(
                f"{key} in the bucket {bucket.name} is not the file of that SHA-256",
                hint=f"remove it, and start the run again: aws s3 rm s3://{bucket.name}/{key}",
            )
        return content.decode()

    with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
        return dict(zip(files, pool.map(take, files.values()), strict=True))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
