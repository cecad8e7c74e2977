"""What a rank publishes for a round, whole or unfinished: one tensor file with sums in its header.

tensors   gradient         float32[P], summed over the rows (train rounds; absent if the rank had no rows)
          buffer.<name>    the model's buffers after the rank's rows (train rounds)
metadata  format, token, round, rank, rows, sums (JSON: loss and metrics, summed over the rows), parts, absent, spent,
          missed
          parts: micro-batches in it; in an unfinished one, where the next leg goes on
          absent: of an unfinished one, parameters that have no gradient yet (JSON: their numbers)
          spent: dollars that it cost
          missed: of a stand-in alone, which somebody else has published because the rank was late
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from estafeta.protocol.layout import Round
from estafeta.store.files import Buffer
from estafeta.store.tensorfile import Array, TensorFile, encode

FORMAT = "estafeta-contribution/1"
GRADIENT = "gradient"
BUFFER = "buffer."


@dataclass(frozen=True)
class Tally:
    """The header of a contribution.

    Attributes:
        rows: Rows that were summed over.
        sums: Loss and metrics by name, summed over these rows.
        parts: Micro-batches that were summed over.
        absent: Parameters that had no gradient in any of them, by number.
        spent_usd: What it cost, with the legs before.
        missed: It is a stand-in: the round was closed without the rank.
    """

    rows: int
    sums: Mapping[str, float]
    parts: int
    absent: Sequence[int] = ()
    spent_usd: float = 0.0
    missed: bool = False


def contribution(
    round_: Round, rank: int, tally: Tally, gradient: Array | None, buffers: Mapping[str, Array], token: str
) -> list[Buffer]:
    """Content of a contribution, ready to be published."""
    tensors = {GRADIENT: gradient} if gradient is not None else {}
    tensors.update({BUFFER + name: array for name, array in buffers.items()})
    metadata = {
        "format": FORMAT,
        "token": token,
        "round": round_.name,
        "rank": str(rank),
        "rows": str(tally.rows),
        "sums": json.dumps(dict(tally.sums)),
        "parts": str(tally.parts),
        "absent": json.dumps(list(tally.absent)),
        "spent": repr(tally.spent_usd),
        **({"missed": "1"} if tally.missed else {}),
    }
    return encode(tensors, metadata)


def stand_in(round_: Round, rank: int, token: str) -> list[Buffer]:
    """Content of what is published in the place of a rank without which a round is closed."""
    return contribution(round_, rank, Tally(0, {}, 0, missed=True), None, {}, token)


def tally_of(file: TensorFile) -> Tally:
    """The header of an open contribution."""
    metadata = file.metadata
    return Tally(
        int(metadata["rows"]),
        json.loads(metadata["sums"]),
        int(metadata["parts"]),
        tuple(json.loads(metadata["absent"])),
        float(metadata["spent"]),
        "missed" in metadata,
    )
