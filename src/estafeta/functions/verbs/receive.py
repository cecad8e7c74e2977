"""A data set that comes from S3 into the store: what `control` does of it in one invocation.

The client has put the data set's files into the bucket. Each leg copies blocks that are not in the store yet, until its
time is short; the client asks for the next leg. A block is compared with the manifest and its digests before it is
published, and the manifest is published when all blocks are there: until then there is no such data set.
"""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import ValidationError

from estafeta import waiting
from estafeta.aws.bucket import UPLOADS, Bucket
from estafeta.data.catalog import check_block, check_name, read_manifest, sweep_blocks
from estafeta.data.manifest import Manifest
from estafeta.errors import Command, Corrupt, UsageError
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import MANIFEST, DatasetLayout, name_of
from estafeta.protocol.listing import attempt_of
from estafeta.store.files import Buffer


def receive(bucket: Bucket, token: str, invocation: Invocation) -> dict[str, Any]:
    """Copy a data set, or a part of it: at least one block.

    Returns:
        `blocks` and `bytes` that are in the store now, and whether the data set is `complete`.

    Raises:
        Corrupt: An uploaded file is not what the manifest says.
        UsageError: There is no such upload, or the store has another data set of the name.
    """
    store, upload = invocation.store, upload_of(token)
    manifest = _manifest(bucket, upload)
    layout = DatasetLayout(manifest.name)
    store.make_directories(layout.root)
    there = set(store.list(layout.root))
    if MANIFEST in there and read_manifest(store, manifest.name).token != manifest.token:
        raise _taken(manifest.name)
    files = [name_of(layout.block(manifest.attempt, number)) for number in range(len(manifest.blocks))]
    deadline = Deadline(invocation.remaining_s, now=store.clock.monotonic, longest_s=waiting.LONGEST_ANSWER_S)
    copied = 0
    for number, file in enumerate(files):
        if file in there:
            continue
        if copied and deadline.is_near():
            break
        with deadline.step():
            content = bucket.read(upload + file)
            check_block(_Content(content), manifest, number)
            store.publish(f"{layout.root}/{file}", [content], manifest.attempt)
        there.add(file)
        copied += 1
    done = [block.bytes for block, file in zip(manifest.blocks, files, strict=True) if file in there]
    complete = len(done) == len(files)
    if complete:
        if not store.publish(layout.manifest, [manifest.to_json()], manifest.token):
            raise _taken(manifest.name)
        sweep_blocks(store, manifest.name, manifest.attempt.__ne__)
    return {"blocks": len(done), "bytes": sum(done), "complete": complete}


def upload_of(token: str) -> str:
    """Beginning of the keys under which a data set's files wait; the names that they have in the store follow."""
    return f"{UPLOADS}{token}/"


def _manifest(bucket: Bucket, upload: str) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(bucket.read(upload + MANIFEST))
    except ValidationError as error:
        raise Corrupt(
            f"the manifest at {upload} in the bucket {bucket.name} cannot be read: {error}",
            hint="send it again: was it sent by another version of Estafeta?",
        ) from error
    check_name(manifest.name)
    first = name_of(DatasetLayout(manifest.name).block(manifest.attempt, 0))
    if attempt_of(first) != manifest.attempt:
        raise Corrupt(
            f"the manifest at {upload} names its blocks by {manifest.attempt!r}",
            hint="send it again: the file was not written by this version of Estafeta",
        )
    return manifest


def _taken(name: str) -> UsageError:
    return UsageError(
        f"the store on AWS has another data set named {name!r}",
        hint=f"import this one under another name, or: {Command('estafeta', 'data', 'rm', name, '--on', 'aws')}",
    )


class _Content:
    """`Reader` over bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self.size = len(content)

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        out = memoryview(buffer).cast("B")
        found = self._content[offset : offset + len(out)]
        out[: len(found)] = found
        return len(found)

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `Reader.scatter`."""
        done = 0
        for buffer in buffers:
            done += self.readinto(buffer, offset + done)
        return done

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
