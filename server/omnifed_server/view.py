"""What a person sees of a running campaign: a table on a terminal, one plain line an event elsewhere. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from omnifed_server.board import PRESENT, SEARCHES, TEACHER, Board, SearchRow, SiteRow
from omnifed_server.event_lines import clock, mib
from omnifed_server.event_lines import lines as lines

_STYLES = {
    "working": "cyan",
    "joined": "green",
    "idle": "green",
    "lost": "red",
    "refused": "red",
    "never seen": "dim",
    "started": "cyan",
    "resumed": "cyan",
    "waiting": "yellow",
    "finished": "green",
    "failed": "red",
    "stopped": "yellow",
}
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 7
_LINES = 4


def render(board: Board, now: datetime | None = None) -> RenderableType:
    """The campaign on one screen, 80 columns or more.

    Args:
        board: what is known.
        now: for the elapsed time; the present if None.
    """
    with board.lock:
        parts: list[RenderableType] = [_header(board, now or datetime.now(UTC)), _table(board)]
        found = [line for event in board.messages if (line := lines(event))][-_LINES:]
        if found:
            parts.append(Text("\n".join(["", *found]), style="dim"))
    return Group(*parts)


def sparkline(values: Iterable[float]) -> str:
    """A Dice history as bars from the lowest to the highest of the values shown; equal values are a middle line."""
    shown = list(values)[-_SPARKS:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if high - low < 1e-9:
        return _BARS[3] * len(shown)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in shown)


def _header(board: Board, now: datetime) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    state = Text.assemble(("Campaign ", "bold"), (board.name or "-", "bold"), "  ")
    state.append(board.state, style=_STYLES.get(board.state, ""))
    elapsed = board.elapsed_seconds
    if board.started and not board.ended:
        elapsed = max(elapsed, (now - board.started).total_seconds())
    grid.add_row(state, f"elapsed {clock(elapsed)}")
    grid.add_row(Text(_stage(board)), _outlook(board))
    traffic = f"{mib(board.bytes_up)} MiB up, {mib(board.bytes_down)} MiB down"
    grid.add_row(Text(f"{_working(board)}, misses {board.missed}"), traffic)
    if any(board.cause):
        grid.add_row(Text(": ".join(part for part in board.cause if part), style=_STYLES.get(board.state, "")), "")
    return Panel(grid, title="OmniFed", title_align="left", border_style="dim")


def _stage(board: Board) -> str:
    if not board.stage:
        return "no stage yet"
    of = f" of {board.total}" if board.total else ""
    if board.stage in SEARCHES:
        return f"Stage {board.stage}: {board.done}{of} trials"
    unit = " rounds" if board.stage in board.rounds else ""
    return f"Stage {board.stage}: {board.done}{of}{unit} done"


def _outlook(board: Board) -> str:
    """The time left in the rounds and the mean Dice of private ones, the best so far in a search."""
    best = board.searches.get(board.stage, SearchRow()).best
    if best is not None:
        return f"best Dice {best:.3f}"
    left, mean = board.seconds_left, board.means.get(board.stage)
    parts = [f"Dice {mean:.3f}, mean of the sites" if mean is not None else ""]
    parts.append(f"left about {clock(left)}" if left is not None else "")
    return "; ".join(part for part in parts if part)


def _working(board: Board) -> str:
    states = [row.state for row in board.sites.values()]
    there = sum(state in PRESENT for state in states)
    return f"{there} of {len(states)} sites here, {states.count('working')} working"


def _table(board: Board) -> Table:
    table = Table(expand=True, box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    longest = max((len(name) for name in board.sites), default=0)
    table.add_column("Site", no_wrap=True, overflow="ellipsis", width=min(16, max(8, longest)))
    table.add_column("State", no_wrap=True, min_width=10)
    table.add_column("Trial" if board.stage in SEARCHES else "Round", justify="right", no_wrap=True)
    table.add_column("Dice", no_wrap=True, min_width=6 + _SPARKS)
    table.add_column("Up MiB", justify="right", no_wrap=True)
    table.add_column("Down", justify="right", no_wrap=True)
    table.add_column("Miss", justify="right", no_wrap=True)
    table.add_column("Last cause", no_wrap=True, overflow="ellipsis", min_width=5, ratio=1)
    for row in board.sites.values():
        table.add_row(*_cells(row))
    return table


def _cells(row: SiteRow) -> list[Text]:
    misses = sum(row.misses.values())
    return [
        Text(row.name),
        Text(row.task or row.state, style=_STYLES.get(row.state, "")),
        Text(str(row.round + 1) if row.round >= 0 else "-"),
        _dice(row),
        Text(mib(row.bytes_up)),
        Text(mib(row.bytes_down)),
        Text(str(misses), style="red" if misses else "dim"),
        Text(" ".join(part for part in row.cause if part), style="red" if row.state in ("lost", "refused") else "dim"),
    ]


def _dice(row: SiteRow) -> Text:
    if row.arm in row.dice:
        return Text.assemble(f"{row.dice[row.arm]:.3f} ", (sparkline(row.history), "cyan"))
    if TEACHER in row.dice:
        return Text.assemble(f"{row.dice[TEACHER]:.3f} ", ("teacher", "dim"))
    return Text("-")
