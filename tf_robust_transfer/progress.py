"""How far a command is, on stderr: a line that is redrawn on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

WIDTH = 100


class Bar:
    """Shows what part is done. In a log, which is all that is no terminal, it writes a line of at
    most `WIDTH` columns every `SECONDS`, without carriage returns.

    Args:
        name: what is done, shown first.
        total, start: where it ends, and where it begins.
        unit: of these numbers, such as "images".
        shown: False shows nothing at all.

    Example:
        with Bar("pgd20", 500, unit="steps") as bar:
            bar.update(20, lambda: "robust at most 97%")
    """

    SECONDS = 30.0
    _REDRAWN = 0.2

    def __init__(self, name: str, total: int, *, start: int = 0, unit: str, shown: bool = True):
        self._name, self._total, self._unit = name, total, unit
        self._last = time.monotonic()
        self._first = None  # (done, time) of the first update: before it lies what is compiled
        self._live, self._shown, self._every = None, shown, self.SECONDS
        if shown and sys.stderr.isatty():
            self._every = self._REDRAWN
            # Only the text gives way where the terminal is narrow.
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            columns = (
                TextColumn("{task.description}", markup=False, table_column=_fixed(len(name))),
                BarColumn(20, table_column=_fixed(20)),
                TextColumn("{task.percentage:>3.0f}%", table_column=_fixed(4)),
                TimeRemainingColumn(compact=True, table_column=_fixed(7)),
                TextColumn("{task.fields[text]}", markup=False, table_column=rest),
            )
            # stdout may be another file, or the next program of a pipe.
            self._live = Progress(
                *columns,
                console=Console(stderr=True),
                transient=True,
                expand=True,
                redirect_stdout=False,
            )
            self._task = self._live.add_task(name, total=total, completed=start, text="")
            self._live.start()

    def update(self, done: int, text: Callable[[], str] = str) -> None:
        """So much is done, of the total. text: what is said beside it, asked for only when it is
        shown.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        if not self._shown or now - self._last < self._every:
            return
        self._last = now
        started, began = self._first
        rate = (done - started) / (now - began) if now > began else 0
        said = f"{rate:,.0f} {self._unit}/s  {text()}" if rate else text()
        if self._live is not None:
            self._live.update(self._task, completed=done, text=said.rstrip())
        else:
            share = f"{100 * done / max(self._total, 1):.0f}%"
            left = f"  {_clock((self._total - done) / rate)} left" if rate else ""
            self.write(f"{self._name}  {share}{left}  {said}"[:WIDTH].rstrip())

    def write(self, line: str) -> None:
        """A line that stays, above the one that is redrawn."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif self._shown:
            sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _fixed(width):
    return Column(width=width, no_wrap=True)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
