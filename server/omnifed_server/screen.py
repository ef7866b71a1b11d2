"""What the coordinator's command shows and serves while a campaign runs: live table or lines, metrics, tracking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from omnifed_server.view import lines as plain_lines
from omnifed_server.view import render


class Screen:
    """Follows the event log.

    Args:
        board: of the campaign.
        tail: of its event log.
        tracker: gets every event too.
        console: where it is shown.
        live: the table's display; None prints a line an event.
    """

    def __init__(self, board: Board, tail: Tail, tracker: Tracker, console: Console, live: Live | None) -> None:
        self.board, self.tracker, self.console, self.live = board, tracker, console, live
        self._tail = tail
        self._read()  # what was before this start is known, and not shown again

    def tick(self) -> None:
        """Shows what is new."""
        tracked = not self.tracker.problem
        for line in self._read():
            if self.live is None:
                self.say(line)
        if tracked and self.tracker.problem:
            self.say(self.tracker.problem)
        if self.live is not None:
            self.live.update(render(self.board), refresh=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, soft_wrap=self.live is None)

    def _read(self) -> list[str]:
        events = self.board.follow(self._tail)
        for event in events:
            self.tracker.add(event)
        return [line for event in events if (line := plain_lines(event))]


@contextmanager
def open_screen(
    config: FederationConfig, folder: Path, *, lines: bool, console: Console | None = None
) -> Iterator[Screen]:
    """The screen of a campaign, with its metrics and tracker.

    Args:
        config: names the sites and arms that are to come, and says which metrics and tracker.
        folder: RUN.
        lines: plain lines even on a terminal.
        console: where to; the terminal if None.

    Raises:
        OmniFedError: OF540 if the metrics port is taken, OF541..OF543 from the tracker.
    """
    console = console or Console(highlight=False)
    board = Board(config.sites, config.arms)
    with ExitStack() as stack:
        tracker = open_tracker(config.tracking, folder / "tracking")
        stack.callback(tracker.close)
        if config.metrics_port:
            stack.callback(serve_metrics(config.metrics_port, BoardCollector(board)).close)
        live = Live(console=console, auto_refresh=False) if console.is_terminal and not lines else None
        if live:
            stack.enter_context(live)
        screen = Screen(board, Tail(folder / EVENTS), tracker, console, live)
        try:
            yield screen
        finally:
            screen.tick()  # the last events are written after the last look
