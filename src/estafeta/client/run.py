"""A run as its user holds it: follow it, stop it, resume it, fetch what it made."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from estafeta.client.backend import Backend
from estafeta.client.fetch import content
from estafeta.client.logbook import Entry
from estafeta.client.option_values import override_spec
from estafeta.cost.cost import Bill, Kept, Usage, bill
from estafeta.errors import RunFailed, UsageError
from estafeta.job.job import Job, On
from estafeta.protocol.spec import Limits, Status, Which

if TYPE_CHECKING:
    import torch

    from estafeta.functions.verbs.inspect import Inspection

POLL_S: dict[On, tuple[float, float]] = {"local": (0.05, 0.5), "inline": (0.2, 0.2), "aws": (0.5, 5.0)}
"""Seconds between two looks at a run, the first and the longest: each look is an invocation of `control`."""

POLL_GROWTH = 1.3

STOP_PATIENCE_S: dict[On, float] = {"local": 15.0, "inline": 15.0, "aws": 150.0}
"""Seconds in which a run that has been asked to stop should have ended, if anybody is at work on it."""

TEND_S = {"local": 10.0}
"""Seconds between two calls of the watchdog by whoever follows a run; on AWS there is a schedule for that."""

PACE_EPOCHS = 20
"""Epochs over which the pace of a run is taken: each is a file to read, and a run may have thousands."""

ENDED = ("done", "stopped", "failed")


class Run:
    """Handle of a run. It holds nothing that the store does not have: make as many as you like.

    Args:
        name: The run's name.
        backend: Where it takes place.
        job: The job, if it is at hand: `load_model` needs it.
    """

    def __init__(self, name: str, backend: Backend, job: Job | None = None) -> None:
        self.name = name
        self._backend = backend
        self._job = job
        self._usage: Usage | None = None

    def __repr__(self) -> str:
        return f"Run({self.name!r}, on={self._backend.on!r})"

    @property
    def on(self) -> On:
        """Where it takes place: `local`, `inline`, `aws`."""
        return self._backend.on

    def status(self, since_epoch: int | None = None) -> Status:
        """The run as it is now.

        Args:
            since_epoch: Bring the records of the epochs after this one; None: of none.

        Raises:
            RunNotFound: There is no such run.
        """
        verb = {"verb": "status", "run": self.name, "since_epoch": 10**9 if since_epoch is None else since_epoch}
        return Status.model_validate(self._backend.call(verb))

    def follow(self, since_epoch: int = 0) -> Iterator[Status]:
        """Look at the run again and again until it has ended; each status brings the epochs that are new in it."""
        pause, longest = POLL_S[self._backend.on]
        tend_s, tended_at = TEND_S.get(self._backend.on, math.inf), time.monotonic()
        while True:
            status = self.status(since_epoch)
            since_epoch = status.epoch
            yield status
            if status.state in ENDED:
                return
            self._backend.advance(pause)
            if time.monotonic() - tended_at > tend_s:
                self._backend.call({"verb": "tend", "run": self.name})
                tended_at = time.monotonic()
            pause = min(pause * POLL_GROWTH, longest)

    def wait(self) -> Run:
        """Wait for the end.

        Raises:
            RunFailed: It failed; the message says why, on which rank, in which round.
        """
        *_, last = self.follow()
        self.raise_failure(last)
        return self

    def raise_failure(self, status: Status) -> None:
        """Raise `RunFailed` if that status is of a failed run."""
        if status.outcome and (failure := status.outcome.failure):
            raise RunFailed(failure.message, hint=failure.hint, exit_code=failure.exit_code)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row for each epoch: `epoch`, `step` and the metrics by name."""
        return [{"epoch": r.epoch, "step": r.version, **r.metrics} for r in self.status(since_epoch=0).epochs]

    @property
    def usage(self) -> Usage:
        """Invocations, retries and GB-seconds, from the functions' logs; kept once the run has ended."""
        if self._usage is None:
            status = self.status()
            ended = status.state in ENDED
            usage = self._backend.usage(self.name, dict(status.spec.functions), status.spec.created_at, ended=ended)
            if not ended:
                return usage
            self._usage = usage
        return self._usage

    @property
    def injected(self) -> dict[str, int]:
        """How many faults of each kind have been injected into it so far; see `estafeta.train`, `chaos`."""
        spec = self.status().spec
        return self._backend.faults(self.name, dict(spec.functions), spec.created_at) if spec.chaos else {}

    @property
    def cost(self) -> float:
        """Dollars so far: what the run has cost on AWS, or would have cost there; see `bill`."""
        return self.bill.total

    @property
    def bill(self) -> Bill:
        """Dollars so far, by what they are for."""
        return _bill(self.status(), self.usage, self.kept)

    @property
    def kept(self) -> Kept:
        """What lies on the file system for it now."""
        return Kept(**self._backend.call({"verb": "kept", "run": self.name}))

    def log(self, since_s: float = 0.0) -> list[Entry]:
        """The run's invocations as the functions' logs have them.

        Args:
            since_s: Leave out those that started before, in seconds since 1970.
        """
        spec = self.status().spec
        return self._backend.log(self.name, dict(spec.functions), max(since_s, spec.created_at))

    def inspect(self, rounds: int = 4) -> Inspection:
        """What lies in its folder, told from the files alone.

        Args:
            rounds: Of how many rounds the contributions are wanted, the newest first.
        """
        from estafeta.functions.verbs.inspect import Inspection

        return Inspection.model_validate(self._backend.call({"verb": "inspect", "run": self.name, "rounds": rounds}))

    def stop(self) -> Status:
        """Stop it; its weights are exported as they are. It can be resumed."""
        return Status.model_validate(self._backend.call({"verb": "stop", "run": self.name}))

    def stop_and_wait(self) -> Status:
        """Stop it, and wait for its end. If its functions seem to be dead, others are sent for to end it."""
        self.stop()
        asked_at = time.monotonic()
        for status in self.follow():
            if status.state not in ENDED and time.monotonic() - asked_at > STOP_PATIENCE_S[self._backend.on]:
                self.stop()
                asked_at = time.monotonic()
        return status

    def resume(self, **limits: float | None) -> Status:
        """Set it going again from its newest weights, after a stop or a failure.

        Args:
            limits: Those that change: `max_cost_usd`, `max_hours`, `max_rounds`; None lifts one.

        Raises:
            UsageError: It is done, or at one of its limits.
        """
        self._usage = None
        verb = {"verb": "resume", "run": self.name, "limits": limits}
        return Status.model_validate(self._backend.call(verb))

    def fork(self, version: Which | int = "final", options: Mapping[str, Any] | None = None) -> Run:
        """Start a new run that begins with a version of this one: weights, optimiser state, epochs so far.

        Args:
            version: Steps done, or which of its exported versions.
            options: What is to be different, by name: `epochs`, fields of the optimiser and of early stopping,
                `micro_batch_size`, `rounds_per_invocation`, the functions' settings. The rest is as it was.

        Raises:
            UsageError: There is no such version, with those that there are in the hint; or an option does not fit.
        """
        spec, settings = override_spec(self.status().spec, options or {})
        spec = spec.model_copy(
            update={
                "token": secrets.token_hex(16),
                "run": new_name(spec.job),
                "created_at": time.time(),
                "estafeta": version_of("estafeta"),
                "functions": self._backend.with_settings(settings),
                "chaos": "",
                "limits": Limits(since=time.time()),
            }
        )
        verb = {"verb": "fork", "run": self.name, "version": version, "spec": spec.model_dump(mode="json")}
        self._backend.call(verb)
        return Run(spec.run, self._backend, self._job)

    def clean(self, *, keep_final: bool = False) -> None:
        """Remove it from the store; it must have ended.

        Args:
            keep_final: Keep its exports and records: it can be looked at and exported, but not resumed or forked.
        """
        self._backend.call({"verb": "clean", "run": self.name, "keep_final": keep_final})

    def export(self, folder: str | Path, which: Which = "final") -> Path:
        """Fetch weights and state into a folder, which is made if it is not there.

        Args:
            folder: Gets `model.safetensors`, `state.json` and, if the optimiser has a state, `optimizer.safetensors`.
            which: `final`, or `best` by the monitored metric.

        Returns:
            Path of the `model.safetensors`, which `safetensors.torch.load_file` reads.

        Raises:
            UsageError: The run is still running, or has no weights; or `which` is none of the two.
        """
        if which not in get_args(Which):
            raise UsageError(f"no version is named {which!r}", hint=f"one of {', '.join(get_args(Which))}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._fetch(which, "model.safetensors", folder)
        state = json.loads(self._fetch(which, "state.json", folder).read_bytes())
        if state["has_optimizer_state"]:
            self._fetch(which, "optimizer.safetensors", folder)
        return folder / "model.safetensors"

    def report(self, path: str | Path) -> Path:
        """Write a page about it: what it was, how its metrics went, where time and money went, how it was run.

        Args:
            path: The HTML file; it needs no network and no script. One that is there is replaced.

        Returns:
            The path.
        """
        from estafeta.client.report.page import Facts, page

        path = Path(path)
        summary = self.summary()
        entries = None if self.on == "inline" else self.log()
        text = page(Facts(self.status(since_epoch=0), summary, entries, time.time()))
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(3)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load_model(self, which: Which = "final") -> torch.nn.Module:
        """The trained model, in evaluation mode.

        Raises:
            UsageError: The job is not at hand: the run was looked up by its name.
        """
        import tempfile

        from safetensors.torch import load_file

        if self._job is None:
            raise UsageError("the job is not at hand", hint="export the weights and load them into your model")
        model = self._job.model(**self.status().spec.arguments.get("model", {}))
        with tempfile.TemporaryDirectory() as folder:
            model.load_state_dict(load_file(self.export(folder, which)))
        return model.eval()

    def summary(self, *, wall_s: float | None = None, model_path: Path | None = None) -> dict[str, Any]:
        """Everything about the run in one JSON-ready object, as the last line of `estafeta train --json` has it."""
        status = self.status(since_epoch=max(0, self.status().epoch - PACE_EPOCHS))
        usage, kept, outcome, spec = self.usage, self.kept, status.outcome, status.spec
        price = _bill(status, usage, kept)
        ended_at = _ended_at(status)
        return {
            "run": self.name,
            "state": status.state,
            "on": self._backend.on,
            "rounds": status.version,
            "steps": status.version,
            "epochs": status.epoch,
            "workers": spec.workers,
            "topology": status.topology or spec.topology,
            "metrics": dict(status.epochs[-1].metrics) if status.epochs else {},
            "best": {"step": status.epochs[-1].best_version, spec.early_stopping.monitor: status.epochs[-1].best_value}
            if status.epochs
            else {},
            "missed": dict(status.epochs[-1].missed) if status.epochs else {},
            "why": outcome.why if outcome else "",
            "weights_sha256": outcome.weights_sha256 if outcome else None,
            "invocations": usage.invocations,
            "rounds_per_s": _pace(status),
            "legs": usage.legs,
            "retries": usage.retries,
            "chaos": {"faults": spec.chaos, "injected": self.injected} if spec.chaos else None,
            "billed_gb_seconds": round(usage.billed_gb_seconds, 6),
            "cost_usd": price.total,
            "costs": price.to_dict(),
            "kept": {"run_bytes": kept.run_bytes, "data_bytes": kept.data_bytes},
            "prices": spec.basis.describe(),
            "traffic": asdict(usage.traffic),
            "limits": status.limits.model_dump(exclude={"format", "token", "since"}, exclude_none=True),
            "train_s": round(ended_at - spec.created_at, 3),
            "wall_s": round(wall_s if wall_s is not None else ended_at - spec.created_at, 3),
            "model_path": str(model_path.absolute()) if model_path else None,
            "error": outcome.failure.model_dump(mode="json") if outcome and outcome.failure else None,
        }

    def _fetch(self, which: Which, file: str, folder: Path) -> Path:
        path = folder / file
        temporary = folder / f".{file}.{secrets.token_hex(3)}.part"
        bucket = self._backend.bucket
        verb = {"verb": "fetch", "run": self.name, "which": which, "file": file, "bucket": bucket and bucket.name}
        try:
            with temporary.open("wb") as out:
                size = 1
                while out.tell() < size:
                    answer = self._backend.call({**verb, "offset": out.tell()})
                    out.write(content(answer, bucket))
                    size = answer["size"]
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def new_name(job: str) -> str:
    """A name for a run: that of the job's module, in the letters that such a name may have, and six random digits."""
    stem = re.sub(r"[^a-z0-9.]+", "-", job.partition(":")[0].lower()).strip("-.")[:40]
    return f"{stem or 'run'}-{secrets.token_hex(3)}"


def _ended_at(status: Status) -> float:
    """When a run ended, in seconds since 1970; now, if it goes on."""
    return status.outcome.ended_at if status.outcome else time.time()


def _bill(status: Status, usage: Usage, kept: Kept) -> Bill:
    return bill(usage, status.spec.basis, kept, _ended_at(status) - status.spec.created_at)


def _pace(status: Status) -> float | None:
    """Rounds per second from the end of the first of these epochs to that of the last: without the start."""
    if len(status.epochs) < 2:
        return None
    first, last = status.epochs[0], status.epochs[-1]
    seconds = last.ended_at - first.ended_at
    return round((last.version - first.version) / seconds, 3) if seconds > 0 else None
