"""The stack's S3 bucket: files go up in parts, come down as streams or by signed addresses, and are listed and removed.

This module knows keys and bytes, not their meaning. boto3's own transfer manager uploads. It sends large files in
parts, retries a failed part, and aborts the upload when it gives up or is interrupted. So no incomplete upload has a
name, and none of its parts is kept and billed. Every call here may be repeated without harm.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from estafeta.aws.lambda_api import reaching
from estafeta.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PART_BYTES = 16 << 20
"""Bytes of one part of an upload; a smaller file goes up in one request. 10,000 parts are the most (S3 quotas)."""
UPLOADS_AT_A_TIME = 4
"""Number of parts of one file that go up at the same time."""
FILES_AT_A_TIME = 8
"""Number of files that go up at the same time. Most have some megabytes or less, so a single upload would mostly wait
for round trips."""
READ_BYTES = 1 << 20
LINK_S = 3600
"""Seconds that a signed address is valid."""
CODE = "code/"
"""Prefix of the functions' code packages. The stack's permissions and the bucket's lifecycle name the prefixes, too."""
LIBRARIES = "libraries/"
UPLOADS = "uploads/"
"""Prefix of objects on their way to the file system; S3 removes them after some days."""
EXPORTS = "exports/"
"""Prefix of objects on their way to the client; S3 removes them after some days."""
KEYS_AT_A_TIME = 1000
"""Number of keys in one request to remove objects at most (S3 API, "DeleteObjects")."""
Progress = Callable[[int], None]
"""Function that is called with the number of bytes that have gone up since its last call, from several threads."""


@dataclass(frozen=True)
class Object:
    """An object of the bucket: its key, its size in bytes."""

    key: str
    size: int


class Bucket:
    """One S3 bucket.

    Args:
        name: Name of the bucket.
        client: A boto3 S3 client (`Account.client("s3")`).

    All methods raise `EnvironmentProblem` if the bucket cannot be reached, or does not allow the call.
    """

    def __init__(self, name: str, client: S3Client) -> None:
        self.name = name
        self._client = client

    def exists(self) -> bool:
        """Whether there is such a bucket, in this account."""
        from botocore.exceptions import ClientError

        with self._reaching():
            try:
                self._client.head_bucket(Bucket=self.name)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return False
                raise
        return True

    def upload(self, key: str, source: Path | bytes, progress: Progress | None = None) -> None:
        """Store a file, or bytes, under a key; the upload replaces an older object when all has arrived."""
        if isinstance(source, bytes):
            return self._upload(key, io.BytesIO(source), progress)
        with source.open("rb") as stream:
            return self._upload(key, stream, progress)

    def upload_missing(self, prefix: str, sources: Mapping[str, Path | bytes]) -> Iterator[int]:
        """Store files, or bytes, under `prefix` and their names, but those that the bucket has with that size.

        Yields:
            Bytes that have arrived of all, after each upload. If the caller stops, no further upload begins.
        """
        arrived = {found.key: found.size for found in self.objects(prefix)}
        sizes = {name: len(s) if isinstance(s, bytes) else s.stat().st_size for name, s in sources.items()}
        missing = [name for name, size in sizes.items() if arrived.get(prefix + name) != size]
        done = sum(sizes.values()) - sum(sizes[name] for name in missing)
        pool = ThreadPoolExecutor(FILES_AT_A_TIME)
        try:
            uploads = {pool.submit(self.upload, prefix + name, sources[name]): sizes[name] for name in missing}
            for finished in as_completed(uploads):
                finished.result()
                done += uploads[finished]
                yield done
        finally:
            pool.shutdown(cancel_futures=True)

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None if there is none."""
        from botocore.exceptions import ClientError

        with self._reaching():
            try:
                return self._client.head_object(Bucket=self.name, Key=key)["ContentLength"]
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise

    def read(self, key: str) -> bytes:
        """A whole object.

        Raises:
            UsageError: There is none.
        """
        return b"".join(self.stream(key))

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """An object from `offset` bytes on, in pieces of up to 1 MiB.

        Raises:
            UsageError: There is none.
        """
        begin = {"Range": f"bytes={offset}-"} if offset else {}
        with self._reaching():
            try:
                body = self._client.get_object(Bucket=self.name, Key=key, **begin)["Body"]  # type: ignore[arg-type]
            except self._client.exceptions.NoSuchKey:
                raise UsageError(
                    f"There is no {key} in the bucket {self.name}", hint="send it again: it may have expired"
                ) from None
            with body:
                yield from body.iter_chunks(READ_BYTES)

    def link(self, key: str, lifetime_s: int = LINK_S) -> str:
        """An address from which anybody who has it can fetch the object, for some time.

        It expires earlier if the credentials that signed it do: a function's last some hours.
        """
        with self._reaching():
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=lifetime_s
            )

    def objects(self, prefix: str = "") -> Iterator[Object]:
        """All objects whose keys begin with `prefix`, in order of their keys."""
        with self._reaching():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for found in page.get("Contents", ()):
                    yield Object(found["Key"], found["Size"])

    def remove(self, prefix: str) -> int:
        """Remove all objects whose keys begin with `prefix`, and the parts of uploads that were never completed.

        Returns:
            Number of objects that there were.
        """
        keys = [found.key for found in self.objects(prefix)]
        with self._reaching():
            for start in range(0, len(keys), KEYS_AT_A_TIME):
                some = keys[start : start + KEYS_AT_A_TIME]
                answer = self._client.delete_objects(
                    Bucket=self.name, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
                )
                for failed in answer.get("Errors", ()):
                    raise EnvironmentProblem(
                        f"{failed['Key']} in the bucket {self.name} cannot be removed: {failed['Message']}",
                        hint="check that these credentials may remove objects",
                    )
            for upload in self._unfinished(prefix):
                self._client.abort_multipart_upload(Bucket=self.name, Key=upload[0], UploadId=upload[1])
        return len(keys)

    def _upload(self, key: str, stream: BinaryIO, progress: Progress | None) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=UPLOADS_AT_A_TIME
        )
        with self._reaching():
            self._client.upload_fileobj(stream, self.name, key, Callback=progress, Config=config)

    def _unfinished(self, prefix: str) -> list[tuple[str, str]]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix)
        return [(upload["Key"], upload["UploadId"]) for page in pages for upload in page.get("Uploads", ())]

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(f"the bucket {self.name}")
