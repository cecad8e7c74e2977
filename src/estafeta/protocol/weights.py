"""A weights version on disk: parameters with buffers, and the optimiser's state.

    <version>.safetensors             parameters float32[P], buffer.<name>; metadata: format, token, version,
                                      rows and sums of the epoch so far (they become `train_loss` at its end),
                                      spent (dollars that the run has cost so far),
                                      attendance, if a rank has missed a round
    <version>.optimizer.safetensors   one float32[P] for each state vector of the optimiser

or, where each rank keeps a slice, one file for each rank:

    <version>-<rank>.safetensors      both: parameters and state.<name>, float32[slice]; metadata also has first (the
                                      slice's first element), size (P) and pieces (how many); rank 0 adds the buffers

A function publishes the optimiser's file first, so a function that sees a version finds its state too. A version in
pieces is complete when all pieces are there.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from estafeta.errors import Gone
from estafeta.protocol.attendance import NOTHING_MISSED, Attendance
from estafeta.protocol.listing import pieces_in
from estafeta.protocol.partition import Slice
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Plan
from estafeta.protocol.totals import Totals
from estafeta.store.files import Reader
from estafeta.store.tensorfile import Array, TensorFile, encode, scratch_buffer

FORMAT = "estafeta-weights/1"
PARAMETERS = "parameters"
STATE = "state."
BUFFER = "buffer."


@dataclass
class Weights:
    """One version in memory.

    Attributes:
        version: Steps done.
        parameters: float32[P].
        state: The optimiser's state vectors by name; float32[P] each, or of the slice that this rank keeps.
        rows: Rows of the epoch so far.
        sums: Loss and metrics, summed over these rows.
        spent_usd: Dollars that the run has cost so far, as its functions know it (`spending.py`).
        attendance: Which ranks have missed rounds.
    """

    version: int
    parameters: Array
    buffers: dict[str, Array]
    state: dict[str, Array] = field(default_factory=dict)
    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    spent_usd: float = 0.0
    attendance: Attendance = NOTHING_MISSED

    def advance(self, totals: Totals, plan: Plan) -> None:
        """Count a step whose update is done: version, buffers, rows and sums of the epoch, dollars."""
        begins = self.version % plan.steps_per_epoch == 0
        self.rows = totals.rows + (0 if begins else self.rows)
        self.sums = {name: value + (0.0 if begins else self.sums[name]) for name, value in totals.sums.items()}
        if self.buffers:
            self.buffers = totals.buffers(self.buffers)
        self.spent_usd += totals.spent_usd
        self.attendance = self.attendance.after(totals.missed)
        self.version += 1


def publish_weights(folder: RunFolder, weights: Weights, token: str) -> bool:
    """Publish a version, the optimiser's state first; return whether the published version carries `token`."""
    header = _header(weights, token)
    if weights.state:
        folder.store.publish(folder.layout.optimizer(weights.version), encode(weights.state, header), token)
    buffers = {BUFFER + name: array for name, array in weights.buffers.items()}
    content = encode({PARAMETERS: weights.parameters, **buffers}, {**header, **_tally(weights)})
    return folder.store.publish(folder.layout.version(weights.version), content, token)


def publish_piece(folder: RunFolder, weights: Weights, own: Slice, *, rank: int, token: str) -> bool:
    """Publish a rank's slice of a version; `weights.state` is of that slice. Returns as `publish_weights`."""
    metadata = {
        **_header(weights, token),
        **_tally(weights),
        "first": str(own.first),
        "size": str(weights.parameters.size),
        "pieces": str(folder.spec.workers),
    }
    tensors = {PARAMETERS: weights.parameters[own.first : own.last]}
    tensors.update({STATE + name: vector for name, vector in weights.state.items()})
    if rank == 0:
        tensors.update({BUFFER + name: array for name, array in weights.buffers.items()})
    return folder.store.publish(folder.layout.piece(weights.version, rank), encode(tensors, metadata), token)


def read_weights(folder: RunFolder, version: int, parameters: Array | None = None) -> Weights:
    """Read parameters and buffers of a version, the parameters into a given float32[P] or a new vector.

    Raises:
        Gone: The version is swept, or not published yet.
        Corrupt: A file is not as its writer has published it.
    """
    whole: Weights | None = None

    def read(reader: Reader) -> Weights:
        file = TensorFile(reader)
        first = int(file.metadata.get("first", 0))
        size = int(file.metadata.get("size", file.entries[PARAMETERS].shape[0]))
        weights = whole or Weights(version, np.empty(size, np.float32) if parameters is None else parameters, {})
        file.read_into(PARAMETERS, weights.parameters[first : first + file.entries[PARAMETERS].shape[0]])
        buffers = {name.removeprefix(BUFFER): file.read(name) for name in file.entries if name.startswith(BUFFER)}
        weights.buffers.update(buffers)
        weights.rows, weights.sums = int(file.metadata["rows"]), json.loads(file.metadata["sums"])
        weights.spent_usd = max(weights.spent_usd, float(file.metadata["spent"]))  # some ranks know more of it
        weights.attendance = _attendance(file)
        return weights

    def read_next(reader: Reader) -> None:
        nonlocal whole
        whole = read(reader)

    _read(folder, version, folder.layout.version(version), read_next)
    assert whole is not None
    return whole


def read_state(
    folder: RunFolder, version: int, span: Slice | None = None, names: Sequence[str] = ()
) -> dict[str, Array]:
    """Read the optimiser's state vectors of a version, or the slice `span` of each.

    For whole vectors from one file the caller need not know the vectors' `names`.

    Raises:
        Gone: The version is swept, or not published yet.
        Corrupt: A file is not as its writer has published it.
    """
    state: dict[str, Array] = {name: np.empty(len(span), np.float32) for name in names} if span is not None else {}

    def read(reader: Reader) -> None:
        file = TensorFile(reader)
        start, size = int(file.metadata.get("first", 0)), int(file.metadata.get("size", 0))
        vectors = {
            entry.removeprefix(STATE): entry
            for entry in file.entries
            if entry != PARAMETERS and not entry.startswith(BUFFER)
        }
        for name, entry in vectors.items():
            length = file.entries[entry].shape[0]
            wanted = Slice(0, size or length) if span is None else span
            if wanted.last <= start or start + length <= wanted.first:
                continue
            out = state.setdefault(name, np.empty(len(wanted), np.float32))
            if len(wanted) == length and wanted.first == start:
                file.read_into(entry, out)
                continue
            for at, piece in file.stream(entry, scratch):
                low, high = max(wanted.first, start + at), min(wanted.last, start + at + len(piece))
                if low < high:
                    out[low - wanted.first : high - wanted.first] = piece[low - start - at : high - start - at]

    scratch = scratch_buffer()
    _read(folder, version, folder.layout.optimizer(version), read)
    return state


def token_of_version(folder: RunFolder, version: int) -> str:
    """Return the token of the function that published a version; raises `Gone` as `read_weights` does."""
    return folder.store.reading(folder.layout.version(version), lambda reader: TensorFile(reader).metadata["token"])


def spent_at(folder: RunFolder, version: int) -> float:
    """Return the dollars that a run had cost at a version; raises `Gone` as `read_weights` does."""
    spent: list[float] = []
    path = folder.layout.version(version)
    _read(folder, version, path, lambda reader: spent.append(float(TensorFile(reader).metadata["spent"])))
    return max(spent)


def attendance_at(folder: RunFolder, version: int) -> Attendance:
    """Return which ranks had missed rounds at a version in one file; raises `Gone` as `read_weights` does."""
    return folder.store.reading(folder.layout.version(version), lambda reader: _attendance(TensorFile(reader)))


def _read(folder: RunFolder, version: int, whole: str, read: Callable[[Reader], None]) -> None:
    """Read the one file of a version, or all pieces.

    Raises:
        Gone: The file is not there, and a piece is missing: ranks sweep pieces one by one.
    """
    try:
        folder.store.reading(whole, read)
    except Gone:
        ranks = pieces_in(folder.store.list(folder.layout.weights), version)
        if not ranks or len(ranks) < folder.store.reading(folder.layout.piece(version, min(ranks)), _pieces):
            raise
        for rank in sorted(ranks):
            folder.store.reading(folder.layout.piece(version, rank), read)


def _pieces(reader: Reader) -> int:
    return int(TensorFile(reader).metadata["pieces"])


def _header(weights: Weights, token: str) -> dict[str, str]:
    return {"format": FORMAT, "token": token, "version": str(weights.version)}


def _tally(weights: Weights) -> dict[str, str]:
    missed = {"attendance": weights.attendance.to_json()} if weights.attendance.missed else {}
    spent = {"spent": repr(weights.spent_usd)}
    return {"rows": str(weights.rows), "sums": json.dumps(weights.sums), **spent, **missed}


def _attendance(file: TensorFile) -> Attendance:
    text = file.metadata.get("attendance")
    return Attendance.from_json(text) if text else NOTHING_MISSED
