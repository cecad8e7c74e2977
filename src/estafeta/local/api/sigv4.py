"""Check of a request's signature, by AWS Signature Version 4.

It knows HTTP requests and keys, nothing of Lambda. Invariant: a request passes only if the holder of the secret key
signed it within the last five minutes. The signature covers method, path, query, headers and body. Source: AWS IAM User
Guide, "Create a signed AWS API request".
"""

import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import quote

from estafeta.local.api.api_error import ApiError
from estafeta.local.api.http import Request

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_AGE_S = 300
_STAMP = re.compile(r"(\d{4})(0[1-9]|1[0-2])([0-2]\d|3[01])T([01]\d|2[0-3])([0-5]\d)([0-5]\d|60)Z")


class Verifier:
    """The check of requests against one pair of keys.

    Args:
        access_key: The only access key that passes.
        secret_key: Secret of that key.
        region: The only Region that signatures may be for.
    """

    def __init__(self, access_key: str, secret_key: str, region: str) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region

    def check(self, request: Request) -> None:
        """Accept a request or refuse it.

        Raises:
            ApiError: 403, with the code that AWS gives for the same fault.
        """
        authorization = request.headers.get("authorization")
        if not authorization:
            raise ApiError(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        claim, _, signature = authorization.rpartition("Signature=")
        access_key, day, region, service, names = _read_claim(claim)
        stamp = request.headers.get("x-amz-date", "")
        if access_key != self._access_key:
            raise ApiError(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        if region != self._region or not stamp.startswith(day):
            raise _wrong(f"Credential should be scoped to region {self._region!r} and to the day of X-Amz-Date.")
        age_s = time.time() - _read_stamp(stamp)
        if abs(age_s) > MAX_AGE_S:
            raise _wrong(f"Signature expired: {stamp} is {age_s:.0f} s away from now.")
        if "host" not in names:
            raise _wrong("'Host' must be a signed header.")
        expected = _signature(
            _keyed_mac(self._secret_key, day, region, service),
            stamp,
            f"{day}/{region}/{service}/aws4_request",
            _canonical(request, names),
        )
        if not hmac.compare_digest(expected, signature):
            raise _wrong("The request signature we calculated does not match the signature you provided.")


def _wrong(message: str) -> ApiError:
    return ApiError(403, "InvalidSignatureException", message)


# The next functions remember their results: a caller's requests differ in little more than body and time.


@lru_cache(maxsize=64)
def _read_claim(claim: str) -> tuple[str, str, str, str, tuple[str, ...]]:
    """Read the part of an Authorization header before the signature; the signature comes last, as AWS documents.

    Returns:
        Access key, day, region, service, names of the signed headers.
    """
    algorithm, _, rest = claim.partition(" ")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    scope = fields.get("Credential", "").split("/")
    if algorithm != ALGORITHM or len(scope) != 5 or "SignedHeaders" not in fields:
        raise ApiError(403, "IncompleteSignatureException", "Authorization header is not complete.")
    access_key, day, region, service, _ = scope
    return access_key, day, region, service, tuple(fields["SignedHeaders"].split(";"))


@lru_cache(maxsize=16)
def _read_stamp(stamp: str) -> int:
    """Seconds since the epoch at an X-Amz-Date."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        raise _wrong("X-Amz-Date is not in the format YYYYMMDD'T'HHMMSS'Z'.")
    return timegm(tuple(map(int, match.groups())))


@lru_cache(maxsize=64)
def _encoded_again(target: str) -> str:
    """The path, encoded once more: every service but S3 signs it so."""
    return quote(target, safe="/~")


@lru_cache(maxsize=16)
def _keyed_mac(secret_key: str, day: str, region: str, service: str) -> hmac.HMAC:
    """HMAC with its key set, for every request of a day, Region and service; callers copy it."""
    key = ("AWS4" + secret_key).encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, digestmod="sha256")


def _signature(keyed_mac: hmac.HMAC, stamp: str, scope: str, canonical: str) -> str:
    mac = keyed_mac.copy()
    mac.update(f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}".encode())
    return mac.hexdigest()


def _canonical(request: Request, names: Sequence[str]) -> str:
    headers: Mapping[str, str] = request.headers
    lines = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in names)
    return "\n".join(
        (
            request.method,
            _encoded_again(request.target),
            "&".join(sorted(_with_value(part) for part in request.query_string.split("&") if part)),
            lines,
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )


def _with_value(part: str) -> str:
    return part if "=" in part else part + "="
