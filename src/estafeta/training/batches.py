"""The rows of a run: their source, and the rows of each phase and of each rank's share of a round.

This module joins two kinds of data. Data from the job or scikit-learn are in memory, or read row by row. Imported data
are in the store, and read block by block. No module above this one tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from estafeta.data.catalog import read_manifest
from estafeta.data.manifest import Manifest
from estafeta.data.sampler import Rows, batch_of, micro_batches, share_of, split_rows
from estafeta.data.windows import BlockRows, Deal, RankRows
from estafeta.errors import UsageError
from estafeta.job.dataset_name import BUNDLED
from estafeta.job.job import Job
from estafeta.job.user_code import user_code
from estafeta.protocol.layout import Phase, Round
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.store.store import Store
from estafeta.training.block_table import BlockTable
from estafeta.training.memory import MIB, plan_memory
from estafeta.training.table import Batch, Table, open_table

MicroBatches = RankRows | Sequence[Rows]
"""The rows of each micro-batch of a share."""


@dataclass
class Data:
    """The rows of a run.

    Attributes:
        tables: Table of each phase, which gives rows by number.
        rows: Numbers of the rows of each phase.
        tokens: Tokens of the stored data sets among them.
        collate: The job's `collate`, for tables that do not call it.
    """

    tables: dict[Phase, Table | BlockTable]
    rows: dict[Phase, Rows | BlockRows]
    tokens: tuple[str, ...] = ()
    collate: Callable[[list[Any]], Any] | None = None
    transform: Callable[..., Any] | None = None
    _deals: dict[Phase, Deal] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, job: Job, spec: RunSpec, store: Store, model: int = 0, trained: int = 0) -> Data:
        """Open the job's data sets and split them.

        Args:
            job: Job, which names or makes them.
            spec: Spec, which has the split and the memory.
            store: Store of the imported ones.
            model: Bytes of the model.
            trained: Bytes of its trained parameters.

        Raises:
            UserCodeError: A factory of the job raised.
            UsageError: A factory made no data set, there is none of that name, or it does not fit the memory.
        """
        sources = {"dataset": job.dataset, "valid_dataset": job.valid_dataset}
        stored = {
            name: read_manifest(store, source)
            for name, source in sources.items()
            if isinstance(source, str) and source not in BUNDLED
        }
        plan = plan_memory(spec, model, trained, tuple(stored.values()))
        plan.check(spec.window_mb)
        room = plan.room // max(1, len(stored))

        def table(name: str) -> Table | BlockTable:
            if name in stored:
                return BlockTable(store, stored[name], room, dense=spec.dense)
            source = sources[name]
            assert source is not None
            return open_table(source, spec.arguments.get(name, {}), job.collate)

        tokens = tuple(manifest.token for manifest in stored.values())
        first = table("dataset")
        if job.valid_dataset is None:
            rows = _split(first, stored.get("dataset"), spec)
            return cls({"train": first, "valid": first}, rows, tokens, job.collate, job.transform)
        second = table("valid_dataset")
        everything: dict[Phase, Rows | BlockRows] = {
            "train": _every_row(first, stored.get("dataset")),
            "valid": _every_row(second, stored.get("valid_dataset")),
        }
        return cls({"train": first, "valid": second}, everything, tokens, job.collate, job.transform)

    def micro_batches(self, round_: Round, rank: int, spec: RunSpec, plan: Plan) -> MicroBatches:
        """The rows of a rank's share of a round, cut into micro-batches: a function of spec, plan and data alone.

        Raises:
            UsageError: The data are not those of the plan.
        """
        self._check(round_.phase, plan)
        rows = self.rows[round_.phase]
        if isinstance(rows, BlockRows):
            deal = self._deal(round_.phase, rows, spec, plan)
            return deal.train(round_.version, rank) if round_.phase == "train" else deal.valid(rank)
        if round_.phase == "valid":
            share = share_of(np.arange(plan.valid_rows), rank, spec.workers)
        else:
            batch = batch_of(
                round_.version,
                train_rows=plan.train_rows,
                batch_size=spec.batch_size,
                steps=plan.steps_per_epoch,
                seed=spec.seed,
            )
            share = share_of(batch, rank, spec.workers)
        return [rows[part] for part in micro_batches(share, spec.micro_batch_size)]

    def batch(self, phase: Phase, share: MicroBatches, part: int) -> Batch:
        """One micro-batch of a share; the table reads the next ones ahead.

        Raises:
            UserCodeError: The data set, or the job's `collate` or `transform`, raised.
        """
        table = self.tables[phase]
        if isinstance(share, RankRows) and isinstance(table, BlockTable):
            table.expect(share.blocks(part))
        batch: Any = table.batch(share[part])
        if self.collate and not (isinstance(table, Table) and table.collated):
            with user_code("collate"):
                batch = self.collate(list(zip(*batch, strict=True)))
        if self.transform:
            with user_code("transform"):
                batch = self.transform(*batch)
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise UsageError(
                f"A batch is a {type(batch).__name__}", hint="collate and transform must return (inputs …, target)"
            )
        return tuple(batch)

    def _check(self, phase: Phase, plan: Plan) -> None:
        expected = plan.rows_of(phase)
        if self.tokens != plan.data:
            raise UsageError("The data set has been imported again since the run was prepared", hint="start a new run")
        if len(self.rows[phase]) != expected:
            raise UsageError(
                f"The data set has {len(self.rows[phase])} rows for this phase, and had {expected} when the run was "
                "prepared",
                hint="dataset() must give the same rows in every process: fix its seeds, and its source",
            )

    def _deal(self, phase: Phase, rows: BlockRows, spec: RunSpec, plan: Plan) -> Deal:
        if phase not in self._deals:
            self._deals[phase] = Deal(
                rows,
                spec.workers,
                spec.batch_size,
                plan.steps_per_epoch,
                spec.micro_batch_size,
                spec.window_mb * MIB,
                spec.seed,
            )
        return self._deals[phase]


def _split(table: Table | BlockTable, manifest: Manifest | None, spec: RunSpec) -> dict[Phase, Rows | BlockRows]:
    """Training rows and held-out rows: by the wishes of the data set's import, or else by the job's."""
    if manifest is None:
        train, valid = split_rows(len(table), spec.validation, spec.seed)
        return {"train": train, "valid": valid}
    fraction, seed = (
        (spec.validation, spec.seed) if manifest.validation is None else (manifest.validation, manifest.seed)
    )
    sizes = tuple(extent.bytes for extent in manifest.blocks)
    return {
        "train": BlockRows(manifest.starts, sizes, False, fraction, seed),
        "valid": BlockRows(manifest.starts, sizes, True, fraction, seed),
    }


def _every_row(table: Table | BlockTable, manifest: Manifest | None) -> Rows | BlockRows:
    if manifest is None:
        return np.arange(len(table))
    return BlockRows(manifest.starts, tuple(extent.bytes for extent in manifest.blocks))
