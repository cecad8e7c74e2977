"""A run as its user holds it: follow it, stop it, resume it, fetch what it made."""

from __future__ import annotations

import json
import math
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

from estafeta.client.backend import Backend
from estafeta.client.connect import OnAws, attach
from estafeta.client.fetch import content
from estafeta.client.find_run import LAST, find_name
from estafeta.client.logbook import Entry
from estafeta.client.options import override_spec
from estafeta.client.summary import Best, Chaos, Summary
from estafeta.cost.cost import Bill, Kept, Usage, bill
from estafeta.errors import RunFailed, UsageError
from estafeta.job.job import On
from estafeta.protocol import verbs
from estafeta.protocol.spec import Limits, Status, Which
from estafeta.protocol.verbs import ExportedFile

if TYPE_CHECKING:
    import torch

    from estafeta.functions.verbs.inspect import Inspection

POLL_S: dict[On, tuple[float, float]] = {"local": (0.05, 0.5), "inline": (0.2, 0.2), "aws": (0.5, 5.0)}
"""Seconds between two looks at a run, the shortest and the longest: each look is an invocation of `control`."""
POLL_GROWTH = 1.3
"""Factor by which the time between two looks grows."""
STOP_PATIENCE_S: dict[On, float] = {"local": 15.0, "inline": 15.0, "aws": 150.0}
"""Seconds in which a run that was asked to stop should have ended, if a function is at work on it."""
TEND_S = {"local": 10.0}
"""Seconds between two calls of the watchdog by a client that follows a run; on AWS a schedule calls it."""
PACE_EPOCHS = 20
"""Epochs over which the pace of a run is taken: each is a file to read, and a run may have thousands."""
ENDED = ("done", "stopped", "failed")
"""States that a run ends in."""


class Run:
    """Handle of a run. It holds nothing that the store does not have: make as many as you like.

    `Run("digits-1a2b3c")` finds a run of this machine; `Run("last", on="aws")` finds the newest one of a stack.

    Args:
        name: Name of the run, the beginning of its name, or `last`.
        backend: Place of the run, if it is at hand, as `estafeta.attach` gives it. A whole name is then taken as it is,
            and the first call to the place finds out whether the run exists.
        model: Makes the model of the job, if it is at hand; else `load_model` takes it from the run's own source.
        on: Place of the run, as in `estafeta.train`.
        **aws: Stack, its Region, and the profile, as in `estafeta.train`.

    Raises:
        RunNotFound: No run has that name, or several begin with it; the hint has the nearest names.
        EnvironmentProblem: The place cannot be reached.
    """

    def __init__(
        self,
        name: str,
        backend: Backend | None = None,
        model: Callable[..., torch.nn.Module] | None = None,
        *,
        on: On = "local",
        **aws: Unpack[OnAws],
    ) -> None:
        is_known = backend is not None and name != LAST
        self._backend = backend or attach(on, **aws)
        self.name = name if is_known else find_name(name, self._backend)
        self._model = model
        self._usage: Usage | None = None

    def __repr__(self) -> str:
        return f"Run({self.name!r}, on={self._backend.on!r})"

    @property
    def on(self) -> On:
        """Place of the run: `local`, `inline`, `aws`."""
        return self._backend.on

    def status(self, since_epoch: int | None = None) -> Status:
        """The run as it is now, with the records of the epochs after `since_epoch`; None: it has no records.

        Raises:
            RunNotFound: No run has that name; the hint has the nearest names.
        """
        return self._status(newest=0) if since_epoch is None else self._status(since_epoch=since_epoch)

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
                self._backend.call(verbs.TendVerb(run=self.name))
                tended_at = time.monotonic()
            pause = min(pause * POLL_GROWTH, longest)

    def wait(self) -> Run:
        """Wait for the end; raises `RunFailed` if it failed, which says why, on which rank, in which round."""
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
        return history_of(self.status(since_epoch=0))

    @property
    def usage(self) -> Usage:
        """Invocations, retries and GB-seconds, from the functions' logs; kept once the run has ended."""
        return self._usage or self._usage_of(self.status())

    @property
    def injected(self) -> dict[str, int]:
        """Number of faults of each kind that were injected into it so far; see `chaos` of `estafeta.train`."""
        return self._injected(self.status())

    @property
    def cost(self) -> float:
        """Dollars so far: what the run has cost on AWS, or would have cost there; see `bill`."""
        return self.bill.total

    @property
    def bill(self) -> Bill:
        """Dollars so far, by what they are for."""
        return self._bill(self._status(newest=0, with_kept=True))

    @property
    def kept(self) -> Kept:
        """What lies on the file system for it now."""
        return self._status(newest=0, with_kept=True).kept or Kept()

    def log(self, since_s: float = 0.0) -> list[Entry]:
        """The run's invocations as the functions' logs have them, from `since_s` on, in seconds since 1970."""
        spec = self.status().spec
        return self._backend.log(self.name, dict(spec.functions), max(since_s, spec.created_at))

    def inspect(self, rounds: int = 4) -> Inspection:
        """What lies in its folder, told from the files alone, with the contributions to its newest `rounds`."""
        from estafeta.functions.verbs.inspect import Inspection

        return Inspection.model_validate(self._backend.call(verbs.InspectVerb(run=self.name, rounds=rounds)))

    def stop(self) -> Status:
        """Stop it; its weights are exported as they are. It can be resumed."""
        return Status.model_validate(self._backend.call(verbs.StopVerb(run=self.name)))

    def stop_and_wait(self) -> Status:
        """Stop it, and wait for its end. If no function reacts, new ones are invoked to end it."""
        self.stop()
        asked_at = time.monotonic()
        for status in self.follow():
            if status.state not in ENDED and time.monotonic() - asked_at > STOP_PATIENCE_S[self._backend.on]:
                self.stop()
                asked_at = time.monotonic()
        return status

    def resume(self, **limits: float | None) -> Status:
        """Set it going again from its newest weights, after a stop or a failure.

        Limits change by name: `max_cost_usd`, `max_hours`, `max_rounds`; None lifts one.

        Raises:
            UsageError: The run is done, or at one of its limits.
        """
        self._usage = None
        return Status.model_validate(self._backend.call(verbs.ResumeVerb(run=self.name, limits=limits)))

    def fork(self, version: Which | int = "final", options: Mapping[str, Any] | None = None) -> Run:
        """Start a new run that begins with a version of this one: weights, optimiser state, epochs so far.

        A version is a number of steps done, `best` or `final`. Options change `epochs`, fields of the optimiser and of
        early stopping, `micro_batch_size`, `rounds_per_invocation`, the functions' settings. All else stays as it was.

        Raises:
            UsageError: The run lacks that version, and the hint has those that it has; or an option does not fit.
        """
        spec, settings = override_spec(self.status().spec, options or {})
        now, token = time.time(), secrets.token_hex(16)
        own: dict[str, Any] = {"token": token, "run": new_name(spec.job), "created_at": now, "chaos": ""}
        functions = self._backend.with_settings(settings)
        own |= {"estafeta": version_of("estafeta"), "functions": functions, "limits": Limits(since=time.time())}
        spec = spec.model_copy(update=own)
        self._backend.call(verbs.ForkVerb(run=self.name, version=version, spec=spec))
        return Run(spec.run, self._backend, self._model)

    def clean(self, *, keep_final: bool = False) -> None:
        """Remove it from the store; it must have ended.

        With `keep_final` its exports and records stay: it can be looked at and exported, but not resumed or forked.
        """
        self._backend.call(verbs.CleanVerb(run=self.name, keep_final=keep_final))

    def export(self, folder: str | Path, which: Which = "final") -> Path:
        """Fetch weights and state into a folder, which is made if it does not exist; `best` is by the monitored metric.

        The folder gets `model.safetensors`, `state.json` and, if the optimiser has a state, `optimizer.safetensors`.

        Returns:
            Path of the `model.safetensors`, which `safetensors.torch.load_file` reads.

        Raises:
            UsageError: The run is still running, or has no weights; or `which` is neither `final` nor `best`.
        """
        if which not in get_args(Which):
            raise UsageError(f"No version is named {which!r}", hint=f"one of {', '.join(get_args(Which))}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._fetch(which, "model.safetensors", folder)
        state = json.loads(self._fetch(which, "state.json", folder).read_bytes())
        if state["has_optimizer_state"]:
            self._fetch(which, "optimizer.safetensors", folder)
        return folder / "model.safetensors"

    def report(self, path: str | Path) -> Path:
        """Write a page about it: its job, its metrics, its time and cost, and the commands to run it again.

        The HTML file needs no network and no script. It replaces a file of that name. Its path is returned.
        """
        from estafeta.client.report.page import Facts, page

        path, status = Path(path), self.full_status()
        entries = None if self.on == "inline" else self.log()
        text = page(Facts(status, self.summary_of(status), entries, time.time()))
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(3)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load_model(self, which: Which = "final") -> torch.nn.Module:
        """The trained model, in evaluation mode, made with the arguments that the run was started with.

        The job's source comes from the run itself, so no file of the user's is needed. Its modules are forgotten
        afterwards: modules of this process with the same names stay what they are. `best` is by the monitored metric.

        Raises:
            UsageError: The run is still running, or has no weights, or its source was cleaned away.
            UserCodeError: The job cannot be imported here, or cannot make its model.
        """
        from safetensors.torch import load_file

        from estafeta.client.run_code import make_model

        with tempfile.TemporaryDirectory(prefix="estafeta-") as folder:
            weights = load_file(self.export(folder, which))
        spec = self.status().spec
        arguments = spec.arguments.get("model", {})
        if self._model is None:
            model = make_model(self._backend.call(verbs.SourceVerb(run=self.name))["code"], spec.job, arguments)
        else:
            model = self._model(**arguments)
        model.load_state_dict(weights)
        return model.eval()

    def full_status(self) -> Status:
        """The run as it is now, with the records of all epochs and what lies on the file system, in one call."""
        return self._status(with_kept=True)

    def summary(self, *, wall_s: float | None = None, model_path: Path | None = None) -> Summary:
        """Everything about the run in one record, as the last line of `estafeta train --json` has it.

        `wall_s` are the seconds that the command took, `model_path` the file that the final weights were exported to.
        """
        return self.summary_of(self._status(newest=PACE_EPOCHS, with_kept=True), wall_s=wall_s, model_path=model_path)

    def summary_of(self, status: Status, *, wall_s: float | None = None, model_path: Path | None = None) -> Summary:
        """The summary by a `full_status` that is at hand; the other arguments are as in `summary`."""
        usage, outcome, spec = self._usage_of(status), status.outcome, status.spec
        newest = status.epochs[-1] if status.epochs else None
        train_s = round(_ended_at(status) - spec.created_at, 3)
        return Summary(
            run=self.name,
            state=status.state,
            on=self._backend.on,
            steps=status.version,
            epochs=status.epoch,
            workers=spec.workers,
            topology=status.topology or spec.topology,
            metrics=newest.metrics if newest else {},
            best=Best(newest.best_version, spec.early_stopping.monitor, newest.best_value) if newest else None,
            missed=newest.missed if newest else {},
            why=outcome.why if outcome else "",
            weights_sha256=outcome.weights_sha256 if outcome else None,
            invocations=usage.invocations,
            rounds_per_s=_pace(status),
            legs=usage.legs,
            retries=usage.retries,
            chaos=Chaos(spec.chaos, self._injected(status)) if spec.chaos else None,
            billed_gb_seconds=round(usage.billed_gb_seconds, 6),
            costs=self._bill(status),
            kept=status.kept or Kept(),
            prices=spec.basis.describe(),
            traffic=usage.traffic,
            limits=status.limits,
            train_s=train_s,
            wall_s=train_s if wall_s is None else round(wall_s, 3),
            model_path=model_path,
            error=outcome.failure if outcome else None,
        )

    def _status(self, *, since_epoch: int = 0, newest: int | None = None, with_kept: bool = False) -> Status:
        verb = verbs.StatusVerb(run=self.name, since_epoch=since_epoch, newest=newest, with_kept=with_kept)
        return Status.model_validate(self._backend.call(verb))

    def _usage_of(self, status: Status) -> Usage:
        if self._usage is not None:
            return self._usage
        ended, spec = status.state in ENDED, status.spec
        usage = self._backend.usage(self.name, dict(spec.functions), spec.created_at, ended=ended)
        self._usage = usage if ended else None
        return usage

    def _injected(self, status: Status) -> dict[str, int]:
        spec = status.spec
        return self._backend.faults(self.name, dict(spec.functions), spec.created_at) if spec.chaos else {}

    def _bill(self, status: Status) -> Bill:
        seconds = _ended_at(status) - status.spec.created_at
        return bill(self._usage_of(status), status.spec.basis, status.kept or Kept(), seconds)

    def _fetch(self, which: Which, file: ExportedFile, folder: Path) -> Path:
        path = folder / file
        temporary = folder / f".{file}.{secrets.token_hex(3)}.part"
        bucket = self._backend.bucket
        name = bucket and bucket.name
        try:
            with temporary.open("wb") as out:
                size = 1
                while out.tell() < size:
                    verb = verbs.FetchVerb(run=self.name, which=which, file=file, offset=out.tell(), bucket=name)
                    answer = self._backend.call(verb)
                    out.write(content(answer, bucket))
                    size = answer["size"]
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def history_of(status: Status) -> list[dict[str, Any]]:
    """One row for each epoch of a status: `epoch`, `step` and the metrics by name."""
    return [{"epoch": record.epoch, "step": record.version, **record.metrics} for record in status.epochs]


def new_name(job: str) -> str:
    """A name for a run: that of the job's module, in the letters that such a name may have, and six random digits."""
    stem = re.sub(r"[^a-z0-9.]+", "-", job.partition(":")[0].lower()).strip("-.")[:40]
    return f"{stem or 'run'}-{secrets.token_hex(3)}"


def _ended_at(status: Status) -> float:
    """End of a run, in seconds since 1970; of a run that goes on, now."""
    return status.outcome.ended_at if status.outcome else time.time()


def _pace(status: Status) -> float | None:
    """Rounds per second over the newest epochs, from the end of the first to the end of the last: without the start."""
    newest = status.epochs[-PACE_EPOCHS:]
    if len(newest) < 2:
        return None
    first, last = newest[0], newest[-1]
    seconds = last.ended_at - first.ended_at
    return round((last.version - first.version) / seconds, 3) if seconds > 0 else None
