"""All drawing: results on standard output, talk on standard error, a live line while a run goes on.

The only module that imports rich. It knows what lines look like, not what they say (`cli/words`). Invariant: standard
output carries results alone, and with `--json` nothing but JSON; what moves is drawn on a terminal alone, and is gone
at the end.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from estafeta.cli.words import run as words
from estafeta.cli.words.epochs import EpochTable
from estafeta.client.units import clock, dollars
from estafeta.protocol.spec import Status

LABEL = 8
"""Columns of a label with the gap behind it."""
STYLES = {"done": "bold green", "stopped": "bold yellow", "failed": "bold red", "error": "bold red", "running": "cyan"}
HINTS = ("next", "try", "log", "kept", "left")
"""Labels of the results that name commands; all else is the user's own."""
RATE_WINDOW_S = 10.0
"""How far back the rate of steps on the live line looks."""
BAR = (10, 40)
"""Least and most columns of the progress bar."""
BESIDE_BAR = 70
"""Columns that the words beside it take, about."""
SPARE = ("price", "rate", "bar", "step")
"""Parts of a progress line that are left out, one after the other, if it is too long for the terminal."""


class Console:
    """The terminal, as a command speaks to it; a quiet one leaves out talk and epochs.

    For a machine it keeps standard output for one JSON object, and epochs are talk. `complete` makes commands that are
    named in a text fit to be copied.
    """

    def __init__(
        self, *, machine: bool = False, quiet: bool = False, complete: Callable[[str], str] = lambda text: text
    ) -> None:
        self.machine = machine
        self.complete = complete
        self._quiet = quiet
        self._out = Terminal(file=sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._err = Terminal(file=sys.stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._live: Live | None = None

    @property
    def interactive(self) -> bool:
        """Whether somebody sits at the other end."""
        return self._err.is_interactive

    def result(self, text: str) -> None:
        """Print a line on standard output."""
        self._out.print(Text(text))

    def results(self, lines: words.Lines) -> None:
        """Print labelled lines on standard output."""
        for label, text in lines:
            self._out.print(_labelled(label, self.complete(text) if label in HINTS else text, self._out))

    def json(self, value: Mapping[str, Any]) -> None:
        """Print one JSON object on one line of standard output; what is not a number is null in it."""
        self._out.print(Text(json.dumps(_finite(value), allow_nan=False)))

    def answer(self, facts: Mapping[str, Any], lines: words.Lines | str) -> None:
        """Print the result of a command on standard output: its facts for a machine, its lines for a reader."""
        if self.machine:
            self.json(facts)
        elif isinstance(lines, str):
            self.result(lines)
        else:
            self.results(lines)

    def talk(self, lines: words.Lines) -> None:
        """Print labelled lines on standard error, unless quiet."""
        if not self._quiet:
            self.insist(lines)

    def note(self, text: str) -> None:
        """Print a line about what is left out or stands in the way, on standard error, unless quiet."""
        self.talk([("note", text)])

    def insist(self, lines: words.Lines) -> None:
        """Print labelled lines on standard error, quiet or not."""
        self.still()
        for label, text in lines:
            self._err.print(_labelled(label, self.complete(text), self._err))

    def epochs(self, status: Status) -> EpochView:
        """The table of a run's epochs, to be drawn as they come in."""
        return EpochView(self._err if self.machine else self._out, status, hidden=self._quiet, clear=self.still)

    def progress(self) -> ProgressLine:
        """A live line for a run, to be drawn by `lively`."""
        return ProgressLine(self._err.width)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], spare: Sequence[str] = ()) -> None:
        """Print a table on standard output; its columns are as wide as they need.

        A terminal that is too narrow does not get the `spare` columns: they are left out one after the other.
        """
        lines = [[_on_one_line(cell) for cell in row] for row in (columns, *rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for name in spare:
            if self._out.is_terminal and sum(widths) + 2 * (len(widths) - 1) > self._out.width:
                del widths[index := lines[0].index(name)]
                lines = [line[:index] + line[index + 1 :] for line in lines]
        for index, line in enumerate(lines):
            text = "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            self._out.print(Text(text, style="bold" if index == 0 else ""))

    def lively(self, line: RenderableType) -> None:
        """Draw or redraw the live line; without a terminal nothing happens."""
        if self._quiet or not self.interactive:
            return
        if self._live is None:
            # What the user's module prints while it is imported goes above the line, not into it.
            self._live = Live(
                console=self._err, auto_refresh=False, transient=True, redirect_stdout=self._out.is_terminal
            )
            self._live.start()
        self._live.update(line, refresh=True)

    def portion(self, what: str, done: int, total: int, unit: str) -> None:
        """Draw how much of something is done; without a total, what there is so far."""
        if not total:
            self.lively(f"{what}   {unit}")
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_row(what, ProgressBar(total, done, width=BAR[1]), f"{done:,} of {total:,} {unit}")
        self.lively(grid)

    def still(self) -> None:
        """Take the live line away; the next `lively` brings it back."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class EpochView:
    """Prints a run's table of epochs, a row when its epoch has ended."""

    def __init__(self, terminal: Terminal, status: Status, *, hidden: bool, clear: Callable[[], None]) -> None:
        self._terminal, self._hidden, self._clear = terminal, hidden, clear
        self._spec = status.spec
        self._table: EpochTable | None = None

    def show(self, status: Status, last: int | None = None) -> None:
        """Print the epochs that a status brings, or the last few of them."""
        if self._hidden or not status.epochs:
            return
        self._clear()
        if self._table is None:
            width = self._terminal.width if self._terminal.is_terminal else None
            monitor = self._spec.early_stopping.monitor
            self._table = EpochTable(list(status.epochs[0].metrics), monitor, self._spec.created_at, width)
            self._terminal.print(Text(self._table.header, style="bold"))
        rows = [self._table.row(record) for record in status.epochs]
        if last and len(rows) > last:
            self._terminal.print(f"  … {len(rows) - last} epochs before")
        for row in rows[-(last or len(rows)) :]:
            text = Text(row.text)
            if row.best:
                text.stylize("bold green", row.best.start, row.best.stop)
            self._terminal.print(text)


class ProgressLine:
    """The live line under the table: state, epoch, a bar for the steps, their rate, time left, dollars up to the epoch.

    It has at most `width` columns.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._bar_width = min(max(width - BESIDE_BAR, BAR[0]), BAR[1])
        self._began = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()

    def draw(self, status: Status) -> RenderableType:
        """The line for a status."""
        state = Text(status.state, STYLES.get(status.state, ""), no_wrap=True, overflow="ellipsis")
        if status.total_steps is None:
            return state.append(f"  {self._waited()}   starting functions, making the model, opening the data")
        rate = self._rate(status.version)
        left = f"{clock((status.total_steps - status.version) / rate)} left" if rate else self._waited()
        words = {
            "state": status.state,
            "epoch": f"epoch {min(status.epoch + 1, status.spec.epochs)}/{status.spec.epochs}",
            "bar": " " * self._bar_width,
            "step": f"step {status.version}/{status.total_steps}",
            "rate": f"{rate:.1f}/s",
            "left": left,
            "price": dollars(status.spent_usd) if status.spent_usd else "",
        }
        for name in SPARE:
            if sum(map(len, words.values())) + 2 * len(words) > self._width:
                del words[name]
        drawn: dict[str, RenderableType] = {
            "state": state,
            "bar": ProgressBar(status.total_steps, status.version, width=self._bar_width),
        }
        grid = Table.grid(padding=(0, 2))
        for _ in words:
            grid.add_column(no_wrap=True)
        grid.add_row(*(drawn.get(name, text) for name, text in words.items()))
        return grid

    def _waited(self) -> str:
        return clock(time.monotonic() - self._began)

    def _rate(self, version: int) -> float:
        now = time.monotonic()
        self._seen.append((now, version))
        while len(self._seen) > 2 and self._seen[0][0] < now - RATE_WINDOW_S:
            self._seen.popleft()
        passed_s = now - self._seen[0][0]
        return (version - self._seen[0][1]) / passed_s if passed_s else 0.0


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _labelled(label: str, text: str, terminal: Terminal) -> Text:
    """A label in its column and the text beside it, wrapped between words on a terminal."""
    width = terminal.width - LABEL if terminal.is_terminal else None
    line = Text().append(f"{label:{LABEL}}" if label or text else "", STYLES.get(label, "bold"))
    given = [Text(part) for part in text.split("\n")]
    lines = [row for part in given for row in part.wrap(terminal, width)] if width and width > 2 * LABEL else given
    for index, part in enumerate(lines):
        part.rstrip()
        line.append("\n" + " " * LABEL if index else "")
        line.append_text(part)
    return line


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
