"""A site's figures for Prometheus: tasks, times and the connection; nothing of a case or a patient. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omnifed.serving import prometheus_client
from omnifed.serving import serve_metrics as serve_metrics
from omnifed_client.site_board import SiteBoard


class SiteCollector:
    """Turns a site's board into metric families; give it to :func:`serve_metrics`.

    Args:
        board: of the site; the supervisor refreshes it, as it also writes the new events to its log.
    """

    def __init__(self, board: SiteBoard) -> None:
        self.board = board
        self._core = prometheus_client().core

    def collect(self) -> list[Any]:
        """All families as they stand."""
        with self.board.lock:
            return list(self._families())

    def _families(self) -> Iterator[Any]:
        board, core = self.board, self._core
        connected = core.GaugeMetricFamily(
            "omnifed_client_connected", "1 while the coordinator can be reached.", labels=["site"]
        )
        connected.add_metric([board.site], float(board.connection == "connected"))
        yield connected
        # prometheus_client adds the "_total" of a counter's name
        tasks = core.CounterMetricFamily(
            "omnifed_client_tasks", "Tasks by what became of them.", labels=["kind", "state"]
        )
        for (kind, state), number in sorted(board.tasks.items()):
            tasks.add_metric([kind, state], number)
        yield tasks
        seconds = core.SummaryMetricFamily("omnifed_client_task_seconds", "Seconds of finished tasks.", labels=["kind"])
        for kind, (total, number) in sorted(board.seconds.items()):
            seconds.add_metric([kind], number, total)
        yield seconds
        progress = core.GaugeMetricFamily(
            "omnifed_client_task_progress", "Share of the task at hand that is done, 0..1.", labels=["kind"]
        )
        if board.task:
            progress.add_metric([board.task], min(1.0, board.done / board.total) if board.total else 0.0)
        yield progress
