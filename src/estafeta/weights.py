"""A weights version on disk: parameters with buffers in one tensor file, the optimiser's state in another.

    <version>.safetensors             parameters float32[P], buffer.<name>; metadata: format, token, version,
                                      rows and sums of the epoch so far (they become `train_loss` at its end)
    <version>.optimizer.safetensors   one float32[P] for each state vector of the optimiser

The optimiser's file is published first: who sees a version finds its state too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from estafeta.contribution import BUFFER
from estafeta.files import Reader
from estafeta.layout import RunLayout
from estafeta.store import Store
from estafeta.tensorfile import Array, TensorFile, encode

FORMAT = "estafeta-weights/1"
PARAMETERS = "parameters"


@dataclass
class Weights:
    """One version in memory.

    Attributes:
        version: Steps done.
        parameters: float32[P].
        buffers: The model's buffers by name.
        state: The optimiser's state vectors by name, float32[P] each.
        rows: Rows of the epoch so far.
        sums: Loss and metrics, summed over these rows.
    """

    version: int
    parameters: Array
    buffers: dict[str, Array]
    state: dict[str, Array] = field(default_factory=dict)
    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)


def publish_weights(store: Store, layout: RunLayout, weights: Weights, token: str) -> bool:
    """Publish a version, the optimiser's state first.

    Returns:
        Whether the published version carries `token`.
    """
    header = {"format": FORMAT, "token": token, "version": str(weights.version)}
    if weights.state:
        store.publish(layout.optimizer(weights.version), encode(weights.state, header), token)
    metadata = {**header, "rows": str(weights.rows), "sums": json.dumps(weights.sums)}
    buffers = {BUFFER + name: array for name, array in weights.buffers.items()}
    content = encode({PARAMETERS: weights.parameters, **buffers}, metadata)
    return store.publish(layout.version(weights.version), content, token)


def read_weights(store: Store, layout: RunLayout, version: int, parameters: Array | None = None) -> Weights:
    """Read parameters and buffers of a version.

    Args:
        store: The store.
        layout: The run's paths.
        version: Steps done.
        parameters: float32[P] to read into; None: a new one.

    Raises:
        Gone: The version has been swept, or is not published yet.
        Corrupt: The file is not as it was published.
    """

    def read(reader: Reader) -> Weights:
        file = TensorFile(reader)
        out = np.empty(file.entries[PARAMETERS].shape, np.float32) if parameters is None else parameters
        file.read_into(PARAMETERS, out)
        buffers = {name.removeprefix(BUFFER): file.read(name) for name in file.entries if name.startswith(BUFFER)}
        return Weights(version, out, buffers, rows=int(file.metadata["rows"]), sums=json.loads(file.metadata["sums"]))

    return store.reading(layout.version(version), read)


def read_state(store: Store, layout: RunLayout, version: int) -> dict[str, Array]:
    """Read the optimiser's state vectors of a version; raises as `read_weights` does."""

    def read(reader: Reader) -> dict[str, Array]:
        file = TensorFile(reader)
        return {name: file.read(name) for name in file.entries}

    return store.reading(layout.optimizer(version), read)


def token_of_version(store: Store, layout: RunLayout, version: int) -> str:
    """The token of whoever published a version; raises `Gone` as `read_weights` does."""
    return store.reading(layout.version(version), lambda reader: TensorFile(reader).metadata["token"])
