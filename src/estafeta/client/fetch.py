"""A part of an exported file as `control` answers it: in the answer itself, or at an address in S3."""

import base64
import hashlib
import http.client
import urllib.request
from collections.abc import Mapping
from typing import Any

from estafeta.aws.bucket import Bucket
from estafeta.errors import EnvironmentProblem

TIMEOUT_S = 60
"""Longest silence of S3."""


def content(answer: Mapping[str, Any], bucket: Bucket | None) -> bytes:
    """The bytes that an answer is about; what lay in the bucket for it is removed.

    Raises:
        EnvironmentProblem: They cannot be fetched, or are not those that were sent. Asking again gives a new address.
    """
    if "data" in answer:
        return base64.b64decode(answer["data"])
    try:
        with urllib.request.urlopen(answer["url"], timeout=TIMEOUT_S) as response:
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EnvironmentProblem(f"an exported file cannot be fetched from S3: {error}", hint="try again") from error
    finally:
        if bucket:
            bucket.remove(answer["key"])
    if hashlib.sha256(data).hexdigest() != answer["sha256"]:
        raise EnvironmentProblem(
            f"{len(data)} bytes of an exported file have arrived from S3 that are not the {answer['length']} sent",
            hint="try again",
        )
    return data
