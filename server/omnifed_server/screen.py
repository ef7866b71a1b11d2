"""What the coordinator's command shows and serves while a campaign runs: live table or lines, metrics, tracking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from omnifed.serving import serve_metrics
from omnifed.tail import Tail
from omnifed_server.app_files import EVENTS
from omnifed_server.board import Board
from omnifed_server.federation_file import FederationConfig
from omnifed_server.metrics import BoardCollector
from omnifed_server.tracking import Tracker, open_tracker
from omnifed_server.view import lines, render


class Screen:
    """Follows the event log.

    Args:
        folder: RUN.
        tracker: gets every event too.
        console: where it is shown.
        live: the table's display; None prints a line an event.
    """

    def __init__(self, folder: Path, tracker: Tracker, console: Console, live: Live | None) -> None:
        self.board, self.tracker, self.console, self.live = Board(), tracker, console, live
        self._tail = Tail(folder / EVENTS)
        for event in self._tail.read():  # what was before this start is known, and not shown again
            self.board.add(event)
            tracker.add(event)

    def tick(self) -> None:
        """Shows what is new."""
        for event in self._tail.read():
            self.board.add(event)
            self.tracker.add(event)
            line = lines(event)
            if self.live is None and line:
                self.console.print(line, markup=False, soft_wrap=True)
        if self.live is not None:
            self.live.update(render(self.board))

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)


@contextmanager
def open_screen(config: FederationConfig, folder: Path, *, lines: bool) -> Iterator[Screen]:
    """The screen of a campaign, with its metrics and tracker.

    Args:
        config: says which metrics and tracker.
        folder: RUN.
        lines: plain lines even on a terminal.

    Raises:
        OmniFedError: OF540 if the metrics port is taken, OF541..OF543 from the tracker.
    """
    console = Console(highlight=False)
    tracker = open_tracker(config.tracking, folder / "tracking")
    live = Live(console=console, refresh_per_second=2) if console.is_terminal and not lines else None
    screen = Screen(folder, tracker, console, live)
    server = serve_metrics(config.metrics_port, BoardCollector(screen.board)) if config.metrics_port else None
    try:
        if live:
            with live:
                yield screen
        else:
            yield screen
    finally:
        tracker.close()
        if server:
            server.close()
