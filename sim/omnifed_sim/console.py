"""What a person sees while a simulation runs: bars on a terminal, one plain line a step when piped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from omnifed.progress import Progress as Callback


class Screen:
    """Bars for stages and sites; silent bars and plain lines where the output is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    @contextmanager
    def live(self) -> Iterator[Screen]:
        """Shows the bars while the block runs."""
        with self._bars:
            yield self

    def say(self, text: str) -> None:
        """One line that stays."""
        self._bars.console.print(text)

    def stage(self, name: str, total: int) -> None:
        """Starts the bar of a stage, in place of the last one's."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks = {"": self._bars.add_task(f"[bold]{name}", total=total, note="")}

    def advance(self, note: str = "") -> None:
        """One step of the stage is done."""
        self._bars.advance(self._tasks[""])
        self._bars.update(self._tasks[""], note=note)

    def progress_of(self, site: str) -> Callback:
        """A callback that draws the bar of one site's work."""

        def progress(done: int, total: int, text: str) -> None:
            if self._bars.disable:
                return
            for other in [key for key in self._tasks if key not in ("", site)]:
                self._bars.remove_task(self._tasks.pop(other))
            if site not in self._tasks:
                self._tasks[site] = self._bars.add_task(f"  {site}", total=total, note=text)
            self._bars.update(self._tasks[site], completed=done, total=total, note=text)

        return progress
