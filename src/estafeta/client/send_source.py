"""The source of a job on its way to a run: in the event that starts it, or through S3, where there is a bucket.

    files that are not in the bucket yet → bucket → `control`, which compares them with their digests → the run's folder

In the bucket a file is called by its SHA-256. A file that has arrived once, with this run or with another, is not sent
again. No client removes it, since another may be about to start with it: the bucket forgets it after some days.
"""

from collections.abc import Iterator, Mapping

from estafeta.aws.bucket import Bucket
from estafeta.errors import UsageError
from estafeta.functions.verbs.take_source import SOURCES, digest_of
from estafeta.protocol.spec import RunSpec
from estafeta.protocol.verbs import StartVerb, UploadedSource

MOST_IN_EVENT = 4 << 20
"""Bytes of source that the payload of a synchronous invocation (6 MB) has room for, as JSON."""
MOST_IN_BUCKET = 32 << 20
"""Bytes of source that `control` takes: it holds all of it as text, in half of its memory (512 MB), and one invocation
publishes it, in seconds of its minutes."""


def check_size(code: Mapping[str, str], bucket: Bucket | None) -> None:
    """Raise `UsageError` for more source than can be sent."""
    most = MOST_IN_EVENT if bucket is None else MOST_IN_BUCKET
    size = sum(len(text.encode()) for text in code.values())
    if size > most:
        raise UsageError(
            f"The job has {size / 1e6:.1f} MB of imported source, more than {most / 1e6:.1f} MB",
            hint="move it to a folder of its own, or install the rest as a package",
        )


def send_source(code: Mapping[str, str], bucket: Bucket) -> Iterator[int]:
    """Upload what is not in the bucket yet; after each upload, yield the bytes of the source that are there."""
    yield from bucket.upload_missing(SOURCES, {digest_of(text.encode()): text.encode() for text in code.values()})


def start_verb(spec: RunSpec, code: dict[str, str], bucket: Bucket | None) -> StartVerb:
    """The event that starts a run: with the text of its source, or with its place, if it was sent to a bucket."""
    if bucket is None:
        return StartVerb(spec=spec, code=code)
    files = {path: digest_of(text.encode()) for path, text in code.items()}
    return StartVerb(spec=spec, uploaded=UploadedSource(bucket=bucket.name, files=files))
