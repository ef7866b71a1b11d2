"""What a person sees of a running site: the connection, the task at hand, the last tasks and their causes. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from omnifed.tail import plain, time_of
from omnifed_client.config import ClientConfig
from omnifed_client.metrics import SiteCollector, serve_metrics
from omnifed_client.site_board import TASK_STATES, SiteBoard, seconds_of

_STYLES = {
    "starting": "yellow",
    "connected": "green",
    "away": "yellow",
    "refused": "red",
    "stopped": "dim",
    "finished": "green",
    "again": "green",
    "failed": "red",
    "cancelled": "yellow",
    "started": "cyan",
}
_BAR = 24


class Running(Protocol):
    """What a screen asks of the supervisor.

    Attributes:
        connected: whether the coordinator can be reached; None before it is known.
    """

    connected: bool | None


class Screen:
    """A live picture on a terminal, plain lines elsewhere; made by :func:`open_screen`.

    Args:
        board: of the site.
        console: where to.
        live: the picture; None for lines.
    """

    def __init__(self, board: SiteBoard, console: Console, live: Live | None) -> None:
        self.board, self._console, self._live = board, console, live

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(Text(text), soft_wrap=not self._live)

    def tick(self, site: Running) -> None:
        """Shows what is new; to be called about twice a second."""
        if site.connected is not None:
            self.board.connect("connected" if site.connected else "away")
        events = self.board.refresh()
        if self._live:
            self._live.update(render(self.board), refresh=True)
            return
        for event in events:
            if line := lines(event):
                self.say(line)


@contextmanager
def open_screen(config: ClientConfig, console: Console | None = None) -> Iterator[Screen]:
    """Shows a site while the block runs, and serves its metrics if the configuration names a port.

    Args:
        config: of the site.
        console: where to; the terminal if None.

    Raises:
        OmniFedError: OF540 or OF541 if the metrics cannot be served.
    """
    console = console or Console(highlight=False)
    board = SiteBoard(config.site, config.state, config.server)
    board.refresh()  # what happened before is on the board, but no news
    server = serve_metrics(config.metrics_port, SiteCollector(board)) if config.metrics_port else None
    live = Live(render(board), console=console, auto_refresh=False) if console.is_terminal else None
    try:
        if live:
            with live:
                yield Screen(board, console, live)
        else:
            yield Screen(board, console, None)
    finally:
        if server:
            server.close()


def render(board: SiteBoard, now: datetime | None = None) -> RenderableType:
    """The site on one screen, 80 columns or more.

    Args:
        board: what is known; :meth:`SiteBoard.refresh` it before.
        now: for the elapsed time; the present if None.
    """
    with board.lock:
        parts: list[RenderableType] = [_head(board), _task(board, now or datetime.now(UTC))]
        body = Panel(Group(*parts), title="OmniFed site", title_align="left", border_style="dim")
        return Group(body, _tasks(board))


def lines(event: dict[str, Any]) -> str | None:
    """An event as one plain line, for a log; None if it is no news to a person."""
    if event.get("event") != "task" or event.get("state") not in TASK_STATES:
        return None
    time, state = time_of(event), str(event["state"])
    text = f"{plain(event.get('kind'), 20)} {plain(event.get('id'))}: {_words(state)}"
    if state == "finished":
        text += f" in {seconds_of(event):.1f} s"
    why = _why(event)
    text += f" ({why})" if why else ""
    return f"{time:%Y-%m-%d %H:%M:%SZ} {text}" if time else text


def _head(board: SiteBoard) -> RenderableType:
    text = Text.assemble((f"Site {plain(board.site, 64)}", "bold"), "  ")
    text.append(board.connection, style=_STYLES.get(board.connection, ""))
    if board.server:
        text.append(f"  {plain(board.server, 60)}", style="dim")
    if board.cause:
        text.append(f"\n{board.cause}", style=_STYLES.get(board.connection, ""))
    return text


def _task(board: SiteBoard, now: datetime) -> RenderableType:
    if not board.task:
        return Text("waiting for a task", style="dim")
    spent = f"{(now - board.started).total_seconds():.0f} s" if board.started else ""
    grid = Table.grid(padding=(0, 1))
    share = f"{board.done}/{board.total}" if board.total else ""
    bar = ProgressBar(total=max(1, board.total), completed=min(board.done, board.total), width=_BAR)
    grid.add_row(Text(board.task, style="cyan"), bar, Text(share), Text(spent), Text(board.text, style="dim"))
    return grid


def _tasks(board: SiteBoard) -> Table:
    table = Table(expand=True, box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("Time", no_wrap=True)
    table.add_column("Task", no_wrap=True)
    table.add_column("Id", no_wrap=True, overflow="ellipsis", ratio=1, min_width=16)
    table.add_column("Result", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("Cause", no_wrap=True, overflow="ellipsis", ratio=1)
    for event in board.last:
        time, state = time_of(event), str(event["state"])
        result = Text(_words(state), style=_STYLES.get(state, ""))
        spent = f"{seconds_of(event):.1f}" if event.get("seconds") is not None else "-"
        cells = (f"{time:%H:%M:%SZ}" if time else "-", plain(event.get("kind"), 20), _short_id(event, board.site))
        table.add_row(*map(Text, cells), result, Text(spent), Text(_why(event), style="red"))
    return table


def _short_id(event: dict[str, Any], site: str) -> str:
    name = plain(event.get("id"))
    # Campaign first, site somewhere behind: the same in every row, and the column is narrow.
    return ".".join(part for part in (name.partition(".")[2] or name).split(".") if part != site)


def _words(state: str) -> str:
    return "sent again" if state == "again" else state


def _why(event: dict[str, Any]) -> str:
    return ": ".join(part for key in ("code", "rule") if (part := plain(event.get(key))))
