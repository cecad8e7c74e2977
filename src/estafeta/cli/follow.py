"""Staying with a run: draw it until it ends, and obey Ctrl-C.

The first Ctrl-C lets the run go on without us, the second, soon after, stops it. An inline run cannot go on without
us: it is stopped at once. Invariant: leaving a run changes nothing about it.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from estafeta.cli.console import Console
from estafeta.cli.words import run as words
from estafeta.cli.words.error import INTERRUPTED_EXIT, of_failure
from estafeta.client.run import Run
from estafeta.client.summary import Summary
from estafeta.errors import Command, EnvironmentProblem
from estafeta.protocol.spec import Status, Which

SECOND_PRESS_S = 3.0
"""Seconds in which a second Ctrl-C stops the run."""
EXPORTS: tuple[Which, ...] = ("final", "best")


@dataclass(frozen=True)
class Watch:
    """A watch over one run by a command that began at `began`, by `time.monotonic`.

    `output_dir` gets the weights of a run that ends well; None: they are not fetched.
    """

    run: Run
    console: Console
    began: float
    output_dir: Path | None = None

    def attend(self) -> int:
        """Stay until the run has ended or Ctrl-C was pressed; return the exit code."""
        try:
            status = self._follow()
        except KeyboardInterrupt:
            if self.run.on == "inline" or self._pressed_again():
                self.console.insist([("", ""), ("note", f"stopping {self.run.name}")])
                self._conclude(self.run.stop_and_wait())
            elif self.console.machine:
                self.console.json(self._summary().to_dict())
            return INTERRUPTED_EXIT
        return self._conclude(status)

    def leave(self) -> int:
        """Let the run go on by itself; print its name; return the exit code."""
        name = self.run.name
        if self.console.machine:
            self.console.json(self._summary().to_dict())
        else:
            self.console.result(name)
        self.console.talk(_ways_on(name))
        return 0

    def _follow(self) -> Status:
        console, line = self.console, self.console.progress()
        status = self.run.status()
        console.talk(words.identity(status, self.run.on))
        epochs = console.epochs(status)
        described = False
        try:
            for status in self.run.follow():
                if not described and (plan := words.plan(status)):
                    console.talk(plan)
                    described = True
                epochs.show(status)
                if self.run.on != "inline":  # there may be a debugger's prompt in an inline run's terminal
                    console.lively(line.draw(status))
        finally:
            console.still()
        return status

    def _pressed_again(self) -> bool:
        """Say what a first Ctrl-C means; return whether a second one came in time."""
        name = self.run.name
        notes = [("", ""), ("note", f"{name} goes on without this terminal"), *_ways_on(name)]
        if not self.console.interactive:
            self.console.insist(notes)
            return False
        again = f"press Ctrl-C again within {SECOND_PRESS_S:.0f} s to stop the run"
        try:
            self.console.insist([*notes, ("", again)])
            time.sleep(SECOND_PRESS_S)
        except KeyboardInterrupt:
            return True
        return False

    def _conclude(self, status: Status) -> int:
        """Fetch the weights, print how it ended; return the exit code."""
        files: dict[str, Path] = {}
        if self.output_dir and status.state != "failed" and status.outcome and status.outcome.version is not None:
            files = self._fetched(self.output_dir)
        summary = self._summary(files.get("final"))
        if self.console.machine:
            self.console.json(summary.to_dict())
        else:
            self.console.results(words.ending(status, summary, files))
        if status.outcome and (failure := status.outcome.failure):
            complaint = of_failure(failure, self.run.name, self.run.on)
            self.console.insist(complaint.lines())
            return complaint.exit_code
        limited = status.outcome is not None and status.outcome.limited
        return 0 if status.state == "done" or limited else INTERRUPTED_EXIT

    def _fetched(self, output_dir: Path) -> dict[str, Path]:
        try:
            return {which: self.run.export(output_dir / self.run.name / which, which) for which in EXPORTS}
        except OSError as error:
            raise EnvironmentProblem(
                f"{self.run.name} has ended, but its weights cannot be written: {error}",
                hint=f"{Command('estafeta', 'export', self.run.name, '-d', 'FOLDER')}",
            ) from error

    def _summary(self, model_path: Path | None = None) -> Summary:
        return self.run.summary(wall_s=time.monotonic() - self.began, model_path=model_path)


def _ways_on(name: str) -> list[tuple[str, str]]:
    return [("next", f"{Command('estafeta', 'watch', name)}"), ("", f"{Command('estafeta', 'stop', name)}")]
