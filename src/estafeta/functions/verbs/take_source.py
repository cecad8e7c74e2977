"""A job's source in the functions: taken from the bucket when a run starts, and given back to a client that asks."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from estafeta.aws.bucket import FILES_AT_A_TIME, UPLOADS, Bucket
from estafeta.errors import Command, Corrupt, UsageError
from estafeta.functions.verbs.status import ANSWER_BYTES
from estafeta.protocol.run_folder import RunFolder
from estafeta.store.store import Store

SOURCES = f"{UPLOADS}source/"
"""Beginning of the keys under which source waits; the digests of the files follow."""


def take_source(files: Mapping[str, str], bucket: Bucket) -> dict[str, str]:
    """The source that a client has sent to the bucket, text by path; `files` has the SHA-256, in hex, by path.

    Raises:
        UsageError: A file is missing.
        Corrupt: A file is not what was sent.
    """

    def take(digest: str) -> str:
        key = SOURCES + digest
        if digest_of(content := bucket.read(key)) != digest:
            raise Corrupt(
                f"{key} in the bucket {bucket.name} is not the file of that SHA-256",
                hint=f"remove it, and start the run again: {Command('aws', 's3', 'rm', f's3://{bucket.name}/{key}')}",
            )
        return content.decode()

    with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
        return dict(zip(files, pool.map(take, files.values()), strict=True))


def source(folder: RunFolder) -> dict[str, dict[str, str]]:
    """The source that a run has taken along: `code`, text by path relative to the code folder.

    Raises:
        UsageError: The run was cleaned, or has more source than an answer holds.
    """
    store, layout, code = folder.store, folder.layout, {}
    export = f"{Command('estafeta', 'export', folder.run)} fetches the weights: load them into your own model"
    for path in _modules(layout.code, store):
        code[path.removeprefix(f"{layout.code}/")] = store.read(path).decode()
    if not code:
        raise UsageError(f"The source of {folder.run} was cleaned away", hint=export)
    if sum(map(len, code.values())) > ANSWER_BYTES:
        raise UsageError(f"{folder.run} has more source than {ANSWER_BYTES >> 20} MB", hint=export)
    return {"code": code}


def digest_of(content: bytes) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(content).hexdigest()


def _modules(folder: str, store: Store) -> Iterator[str]:
    """Paths of all modules below a folder; packages are folders of their own."""
    for name in sorted(store.list(folder)):
        if name.endswith(".py"):
            yield f"{folder}/{name}"
        elif "." not in name:
            yield from _modules(f"{folder}/{name}", store)
