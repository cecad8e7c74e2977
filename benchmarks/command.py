"""Estafeta's own command in a home of its own, for benchmarks of whole runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from estafeta import local
from estafeta.client.connect import attach
from estafeta.client.run import Run

LIMIT_S = 900.0
COMMAND = Path(sys.executable).with_name("estafeta")


@dataclass(frozen=True)
class Trained:
    """A run that has ended well.

    Attributes:
        run: The run.
        began_at: When the command was started, in seconds since 1970.
        summary: What the command printed.
    """

    run: Run
    began_at: float
    summary: Mapping[str, Any]

    def epochs_ended_at(self) -> list[float]:
        """When each epoch ended, by its record, in seconds since 1970."""
        return [record.ended_at for record in self.run.status(since_epoch=0).epochs]


class Home:
    """A folder under /var/tmp for the service, its store, and what is fetched. Use it as a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-home-", dir="/var/tmp"))
        self._before = os.environ.get("ESTAFETA_HOME")
        os.environ["ESTAFETA_HOME"] = str(self.folder / "home")

    def train(self, job: str, ranks: int, topology: str = "auto", **options: Any) -> Trained:
        """Run `estafeta train`; names of options have `__` where the command has a dot.

        Raises:
            RuntimeError: It ended otherwise than well; the message has what it printed.
        """
        began_at = time.time()
        summary = self._command(job, ranks, topology, ["--output-dir", str(self.folder / "runs")], options)
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        return Trained(Run(summary["run"], attach("local")), began_at, summary)

    def start(self, job: str, ranks: int, topology: str = "auto", chaos: str = "", **options: Any) -> Run:
        """The same, without waiting for the end.

        Raises:
            RuntimeError: It was not started.
        """
        summary = self._command(job, ranks, topology, ["--detach", *(["--chaos", chaos] if chaos else [])], options)
        return Run(summary["run"], attach("local"))

    def _command(self, job: str, ranks: int, topology: str, more: list[str], options: Mapping[str, Any]) -> Any:
        words = [str(COMMAND), "train", job, "--workers", str(ranks), "--topology", topology, "--json", *more]
        for name, value in options.items():
            text = value if isinstance(value, str) else json.dumps(value)
            words += ["-o", f"{name.replace('__', '.')}={text}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
        return json.loads(done.stdout)

    def stop(self) -> None:
        """End the service."""
        local.stop(self.folder / "home")

    def close(self) -> None:
        """End the service, and remove everything."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.environ.pop("ESTAFETA_HOME")
            if self._before is not None:
                os.environ["ESTAFETA_HOME"] = self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
