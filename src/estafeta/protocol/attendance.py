"""Which ranks have missed rounds, where rounds may close without the slowest; a function of the contributions alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Attendance:
    """At a weights version.

    Attributes:
        missed: By rank, how many rounds it has missed since the beginning of the run; ranks that missed none are not
            in it.
        in_a_row: By rank, how many of them were the last ones.
    """

    missed: Mapping[int, int] = field(default_factory=dict)
    in_a_row: Mapping[int, int] = field(default_factory=dict)

    def after(self, missing: Collection[int]) -> Attendance:
        """The same after a round that some ranks have missed."""
        if not missing and not self.in_a_row:
            return self
        missed = {**self.missed, **{rank: self.missed.get(rank, 0) + 1 for rank in missing}}
        return Attendance(
            dict(sorted(missed.items())), {rank: self.in_a_row.get(rank, 0) + 1 for rank in sorted(missing)}
        )

    def settled(self, version: int, missing: Collection[int]) -> int:
        """The newest version that all ranks are known to have had, when the round of `version` has been gathered.

        A rank that has contributed to the round of a version had that version, and was done with all before it. The
        result is -1 if a rank may never have had one.
        """
        return min((version - 1 - self.in_a_row.get(rank, 0) for rank in missing), default=version)

    def to_json(self) -> str:
        """As text, for the header of a tensor file."""
        return json.dumps({"missed": self.missed, "in_a_row": self.in_a_row})

    @classmethod
    def from_json(cls, text: str) -> Attendance:
        """What `to_json` has written."""
        counts = {name: {int(rank): count for rank, count in by.items()} for name, by in json.loads(text).items()}
        return cls(**counts)


NOTHING_MISSED = Attendance()
