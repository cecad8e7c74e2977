"""What the names in a listing say: the inverse of `layout.py`.

What a run has to do next is computed from this alone. A name that matches nothing here is nobody's, and is passed over.
"""

import re
from collections import Counter
from collections.abc import Iterable

from estafeta.protocol.layout import Phase, Round

_WEIGHTS = re.compile(r"(\d{8})\.safetensors")
_PIECE = re.compile(r"(\d{8})-(\d{4})\.safetensors")
_MESSAGE = re.compile(r"(gradient|scores|slice|norms)-(\d{8})")
_MARK = re.compile(r"(?:rank|ready|left|crashed)-(\d{4})-(\d{2,})")
_RESIDENT = re.compile(r"rank-(\d{4})-(\d{2,})\.g(\d{2,})")
_CONTRIBUTION = re.compile(r"(train|valid)-(\d{8})-(\d{4})")
_PARTIAL = re.compile(r"(train|valid)-(\d{8})-(\d{4})-(\d{2,})")
_CALL = re.compile(r"call-(\d{4})-(\d{8})\.g(\d{2,})")
_LIMITS = re.compile(r"limits-(\d{4,})\.json")
_EPOCH = re.compile(r"(\d{4,})\.json")
_BLOCK = re.compile(r"([0-9a-f]{16})-(\d{6,})\.safetensors")


def versions_in(names: Iterable[str], pieces: int = 0) -> frozenset[int]:
    """Complete weights versions in a listing of `weights/`: whole ones, and those of which so many pieces are there."""
    names = list(names)
    found = Counter(int(match[1]) for name in names if (match := _PIECE.fullmatch(name)))
    whole = (int(match[1]) for name in names if (match := _WEIGHTS.fullmatch(name)))
    return frozenset((*whole, *(version for version, count in found.items() if count == pieces)))


def pieces_in(names: Iterable[str], version: int) -> frozenset[int]:
    """Ranks whose piece of a version is in a listing of `weights/`."""
    matches = (_PIECE.fullmatch(name) for name in names)
    return frozenset(int(match[2]) for match in matches if match and int(match[1]) == version)


def version_of(name: str) -> int | None:
    """The weights version that a file of `weights/` belongs to, or None if it belongs to none."""
    match = re.match(r"(\d{8})[.-]", name)
    return int(match[1]) if match else None


def messages_in(names: Iterable[str], kind: str) -> frozenset[int]:
    """Versions of which a listing of a rank's outbox has a message of one kind."""
    matches = (_MESSAGE.fullmatch(name) for name in names)
    return frozenset(int(match[2]) for match in matches if match and match[1] == kind)


def contributions_in(names: Iterable[str]) -> frozenset[str]:
    """Names of a resident rank's contributions, in a listing of its outbox."""
    matches = (_MESSAGE.fullmatch(name) for name in names)
    return frozenset(match[0] for match in matches if match and match[1] in ("gradient", "scores"))


def rank_of_outbox(path: str) -> int:
    """The resident rank whose message a path is of."""
    return int(path.split("/")[-2])


def leg_of(name: str) -> tuple[int, int] | None:
    """The resident rank and leg that a file of `legs/` belongs to, or None."""
    match = _MARK.match(name)
    return (int(match[1]), int(match[2])) if match else None


def generation_in(names: Iterable[str], rank: int, leg: int) -> int:
    """The newest generation in which a leg has been claimed, from a listing of `legs/`; -1 if it has not been."""
    matches = (_RESIDENT.fullmatch(name) for name in names)
    return max((int(m[3]) for m in matches if m and (int(m[1]), int(m[2])) == (rank, leg)), default=-1)


def leg_claimed_in(name: str) -> tuple[int, int, int] | None:
    """Rank, leg and generation that a claim in `legs/` is of, or None if it is no claim to be a leg."""
    match = _RESIDENT.fullmatch(name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def left_in(names: Iterable[str]) -> frozenset[tuple[int, int]]:
    """Ranks and legs of which it is said that they have left, in a listing of `legs/`."""
    return frozenset(mark for name in names if name.startswith("left-") and (mark := leg_of(name)))


def residents_in(names: Iterable[str]) -> dict[int, tuple[int, int]]:
    """By rank, the newest leg and its newest generation that have been claimed, from a listing of `legs/`."""
    newest: dict[int, tuple[int, int]] = {}
    for match in (_RESIDENT.fullmatch(name) for name in names):
        if match:
            rank, leg, generation = (int(text) for text in match.groups())
            newest[rank] = max((leg, generation), newest.get(rank, (0, 0)))
    return newest


def calls_in(names: Iterable[str], rank: int) -> dict[int, int]:
    """By version, how often a resident rank has been sent for because it was missing, from a listing of `legs/`."""
    calls: dict[int, int] = {}
    for match in (_CALL.fullmatch(name) for name in names):
        if match and int(match[1]) == rank:
            calls[int(match[2])] = max(calls.get(int(match[2]), 0), int(match[3]) + 1)
    return calls


def all_calls_in(names: Iterable[str]) -> list[str]:
    """File names of all calls, in a listing of `legs/`."""
    return [name for name in names if _CALL.fullmatch(name)]


def ranks_in(names: Iterable[str], round_: Round) -> frozenset[int]:
    """Ranks whose contribution to a round is in a listing of `contributions/`."""
    matches = (_CONTRIBUTION.fullmatch(name) for name in names)
    return frozenset(int(match[3]) for match in matches if match and _round(match) == round_)


def legs_in(names: Iterable[str], round_: Round) -> dict[int, int]:
    """By rank, the highest leg that a listing of `partial/` allows to go on in a round."""
    legs: dict[int, int] = {}
    for match in (_PARTIAL.fullmatch(name) for name in names):
        if match and _round(match) == round_:
            rank, leg = int(match[3]), int(match[4])
            legs[rank] = max(leg, legs.get(rank, 0))
    return legs


def partial_rank(name: str) -> int | None:
    """The rank that a file of `partial/` belongs to, or None if it is no such file."""
    match = _PARTIAL.fullmatch(name)
    return int(match[3]) if match else None


def limits_in(names: Iterable[str]) -> set[int]:
    """Resumptions that have documents of limits."""
    return {int(match[1]) for name in names if (match := _LIMITS.fullmatch(name))}


def epochs_in(names: Iterable[str]) -> frozenset[int]:
    """Epochs that have a record, from a listing of `epochs/`."""
    return frozenset(int(match[1]) for name in names if (match := _EPOCH.fullmatch(name)))


def attempt_of(name: str) -> str | None:
    """The attempt at importing that a file of a data set's folder belongs to, or None if it is no block."""
    match = _BLOCK.fullmatch(name)
    return match[1] if match else None


def round_of(name: str) -> Round | None:
    """The round that a file of `contributions/`, `partial/` or `legs/` belongs to, or None."""
    match = re.match(r"(?:merge-|close-)?(train|valid)-(\d{8})", name)
    return _round(match) if match else None


def _round(match: re.Match[str]) -> Round:
    phase: Phase = "train" if match[1] == "train" else "valid"
    return Round(int(match[2]), phase)
