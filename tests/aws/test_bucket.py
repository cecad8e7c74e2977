"""The bucket: uploads in parts, what becomes of them when they are cut off, errors that say what is wrong."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from s3transfer.futures import TransferCoordinator

from estafeta.aws.bucket import Bucket
from estafeta.errors import EnvironmentProblem, UsageError

SMALLEST_PART = 5 << 20
"""Smallest size of a part that is not the last (S3 User Guide, "Amazon S3 multipart upload limits")."""


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of two parts and a half."""
    monkeypatch.setattr("estafeta.aws.bucket.PART_BYTES", SMALLEST_PART)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (SMALLEST_PART * 5 // 2 // 256))
    return path


def unfinished(bucket: Bucket) -> list[Any]:
    return bucket._client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])


def test_a_large_file_goes_up_in_parts_and_comes_back(bucket: Bucket, large: Path) -> None:
    counts: list[int] = []
    bucket.upload("large", large, counts.append)
    assert sum(counts) == large.stat().st_size == bucket.size("large")
    assert bucket._client.head_object(Bucket=bucket.name, Key="large")["ETag"].endswith('-3"'), "three parts"
    assert bucket.read("large") == large.read_bytes()
    tail = b"".join(bucket.stream("large", SMALLEST_PART))
    assert tail == large.read_bytes()[SMALLEST_PART:]


def lose_connection(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the second part fail, each time it is tried."""
    send: Callable[..., Any] = bucket._client.upload_part

    def upload_part(**request: Any) -> Any:
        if request["PartNumber"] == 2:
            raise ConnectionClosedError(endpoint_url="s3")
        return send(**request)

    monkeypatch.setattr(bucket._client, "upload_part", upload_part)


def press_ctrl_c(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the main thread interrupted while it waits for the parts, the second of which is on its way meanwhile."""
    send: Callable[..., Any] = bucket._client.upload_part
    cancel = TransferCoordinator.cancel
    cancelled = threading.Event()

    def upload_part(**request: Any) -> Any:
        assert request["PartNumber"] != 2 or cancelled.wait(30)
        return send(**request)

    def result(self: TransferCoordinator) -> None:
        raise KeyboardInterrupt

    def cancel_and_tell(self: TransferCoordinator, *arguments: Any, **named: Any) -> None:
        cancel(self, *arguments, **named)
        cancelled.set()

    monkeypatch.setattr(bucket._client, "upload_part", upload_part)
    monkeypatch.setattr(TransferCoordinator, "result", result)
    monkeypatch.setattr(TransferCoordinator, "cancel", cancel_and_tell)


@pytest.mark.parametrize(
    ("cut_off", "error"), [(lose_connection, EnvironmentProblem), (press_ctrl_c, KeyboardInterrupt)]
)
def test_an_upload_that_is_cut_off_leaves_no_object_and_no_parts(
    bucket: Bucket,
    large: Path,
    cut_off: Callable[[Bucket, pytest.MonkeyPatch], None],
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN an upload WHEN it ends before its last part THEN nothing is stored, and the same upload succeeds later."""
    with monkeypatch.context() as patch:
        cut_off(bucket, patch)
        with pytest.raises(error):
            bucket.upload("large", large)
    assert bucket.size("large") is None
    assert unfinished(bucket) == []
    bucket.upload("large", large)
    assert bucket.read("large") == large.read_bytes()


def test_remove_takes_unfinished_uploads_of_killed_clients_too(bucket: Bucket) -> None:
    bucket._client.create_multipart_upload(Bucket=bucket.name, Key="libraries/part")
    bucket.upload("libraries/whole", b"1")
    bucket.upload("code/whole", b"22")
    assert [(found.key, found.size) for found in bucket.objects()] == [("code/whole", 2), ("libraries/whole", 1)]
    assert bucket.remove("libraries/") == 1
    assert unfinished(bucket) == []
    assert [found.key for found in bucket.objects()] == ["code/whole"]


def test_a_signed_address_needs_no_credentials(bucket: Bucket) -> None:
    bucket.upload("exports/model", b"weights")
    address = bucket.link("exports/model")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in address
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == b"weights"


def test_missing_keys_and_buckets_are_named(bucket: Bucket) -> None:
    assert bucket.exists()
    nowhere = Bucket("nowhere", bucket._client)
    assert not nowhere.exists()
    assert bucket.size("absent") is None
    with pytest.raises(UsageError, match="no absent in the bucket"):
        bucket.read("absent")
    with pytest.raises(EnvironmentProblem, match="bucket nowhere"):
        nowhere.upload("key", b"")
