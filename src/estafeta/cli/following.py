"""Staying with a run: draw it until it ends, and obey Ctrl-C.

The first Ctrl-C lets the run go on without us, the second, soon after, stops it. An inline run cannot go on without
us: it is stopped at once. Invariant: whatever happens here, the run's folder is as if nobody had been watching.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from estafeta.cli import wording
from estafeta.cli.console import Console, ProgressLine
from estafeta.cli.failing import of_failure
from estafeta.run import Run
from estafeta.spec import Status, Which

SECOND_PRESS_S = 3.0
INTERRUPTED_EXIT = 130
EXPORTS: tuple[Which, ...] = ("final", "best")


@dataclass(frozen=True)
class Watch:
    """A watch over one run.

    Attributes:
        run: The run.
        console: Where to draw.
        began: When the command began, by `time.monotonic`.
        output_dir: Gets the weights of a run that ends well; None: they are not fetched.
        machine: Whether the result is JSON.
    """

    run: Run
    console: Console
    began: float
    output_dir: Path | None = None
    machine: bool = False

    def attend(self) -> int:
        """Stay until the run has ended or Ctrl-C was pressed; return the exit code."""
        try:
            return self._conclude(self._follow())
        except KeyboardInterrupt:
            if self.run.on != "inline" and not self._pressed_again():
                self._hand_out({})
                return INTERRUPTED_EXIT
        self._conclude(self._stop())
        return INTERRUPTED_EXIT

    def leave(self) -> int:
        """Let the run go on by itself; print its name; return the exit code."""
        name, on = self.run.name, self.run.on
        if self.machine:
            self._hand_out({})
        else:
            self.console.result(name)
        self.console.talk([("next", wording.command("watch", name, on)), ("", wording.command("stop", name, on))])
        return 0

    def _follow(self) -> Status:
        console, line = self.console, ProgressLine()
        status = self.run.status()
        console.talk(wording.identity(status, self.run.on))
        epochs = console.epochs(status)
        described = False
        try:
            for status in self.run.follow():
                if not described and (plan := wording.plan(status)):
                    console.talk(plan)
                    described = True
                epochs.show(status)
                if self.run.on != "inline":  # there may be a debugger's prompt in an inline run's terminal
                    console.lively(line, status)
        finally:
            console.still()
        return status

    def _pressed_again(self) -> bool:
        """Say what a first Ctrl-C means; return whether a second one came in time."""
        name, on = self.run.name, self.run.on
        notes = [
            ("", ""),
            ("note", f"{name} goes on without this terminal"),
            ("next", wording.command("watch", name, on)),
            ("", wording.command("stop", name, on)),
        ]
        if not self.console.interactive:
            self.console.insist(notes)
            return False
        self.console.insist([*notes, ("", f"press Ctrl-C again within {SECOND_PRESS_S:.0f} s to stop the run")])
        try:
            time.sleep(SECOND_PRESS_S)
        except KeyboardInterrupt:
            return True
        return False

    def _stop(self) -> Status:
        self.console.insist([("", ""), ("note", f"stopping {self.run.name}")])
        self.run.stop()
        *_, last = self.run.follow()
        return last

    def _conclude(self, status: Status) -> int:
        """Fetch the weights, print how it ended; return the exit code."""
        files: dict[str, Path] = {}
        if self.output_dir and status.state != "failed" and status.outcome and status.outcome.version is not None:
            files = {w: self.run.export(self.output_dir / self.run.name / w, w) for w in EXPORTS}
        self._hand_out(files, status)
        if status.outcome and (failure := status.outcome.failure):
            complaint = of_failure(failure, self.run.name, self.run.on)
            self.console.complaint(complaint)
            return complaint.exit_code
        return 0 if status.state == "done" else INTERRUPTED_EXIT

    def _hand_out(self, files: Mapping[str, Path], ended: Status | None = None) -> None:
        """Print the result; a run that goes on has one for machines alone."""
        if not ended and not self.machine:
            return
        summary = self.run.summary(wall_s=time.monotonic() - self.began, model_path=files.get("final"))
        if self.machine:
            self.console.json(summary)
        elif ended:
            self.console.results(wording.ending(ended, summary, files))
