"""The coordinator's figures for Prometheus: what the board knows, read anew on each request. No torch.

Labels are site names, arms, codes and states; no value of a patient or a case is among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from omnifed.serving import prometheus_client
from omnifed.serving import serve_metrics as serve_metrics
from omnifed_server.board import Board
from omnifed_server.board_site import CAMPAIGN_STATES, SITE_STATES

Sample = tuple[tuple[str, ...], float]


class BoardCollector:
    """Turns a board into metric families; give it to :func:`serve_metrics`.

    Args:
        board: of the running campaign; another thread may go on folding events into it.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self._core = prometheus_client().core

    def collect(self) -> list[Any]:
        """All families as they stand."""
        with self.board.lock:
            return [*self._campaign(), *self._searches(), *self._sites()]

    def _campaign(self) -> Iterator[Any]:
        board, core = self.board, self._core
        states = [((state,), float(board.state == state)) for state in CAMPAIGN_STATES]
        yield self._gauge("campaign_state", "1 for the state that the campaign is in.", ["state"], states)
        rounds = [((arm,), float(number)) for arm, number in board.rounds.items()]
        yield self._counter("rounds", "Finished rounds.", ["arm"], rounds)
        summary = core.SummaryMetricFamily(
            "omnifed_round_seconds", "Wall-clock seconds of the finished rounds.", labels=["arm"]
        )
        for arm, (seconds, number) in board.round_seconds.items():
            summary.add_metric([arm], number, seconds)
        yield summary

    def _searches(self) -> Iterator[Any]:
        searches = self.board.searches.items()
        trials = [((stage,), float(search.trials)) for stage, search in searches]
        yield self._counter("search_trials", "Trials of a search that were told.", ["stage"], trials)
        best = [((stage,), search.best) for stage, search in searches if search.best is not None]
        yield self._gauge("search_best_dice", "Best foreground Dice of a search so far, 0..1.", ["stage"], best)

    def _sites(self) -> Iterator[Any]:
        rows = self.board.sites.values()
        states = [((row.name, state), float(row.state == state)) for row in rows for state in SITE_STATES]
        yield self._gauge("site_state", "1 for the state that the site is in.", ["site", "state"], states)
        dice = [((row.name, arm), value) for row in rows for arm, value in row.dice.items()]
        means = [((arm,), value) for arm, value in self.board.means.items()]
        yield self._gauge("mean_dice", "Last mean of the sites' Dice, of private rounds, 0..1.", ["arm"], means)
        yield self._gauge("site_dice", "Last foreground Dice on validation cases, 0..1.", ["site", "arm"], dice)
        test = [((row.name, *key), value) for row in rows for key, value in row.test.items()]
        labels = ["site", "arm", "which", "split"]
        yield self._gauge("site_evaluated_dice", "Foreground Dice of an evaluated model, 0..1.", labels, test)
        seconds = [((row.name,), row.seconds) for row in rows if row.seconds]
        yield self._gauge("site_task_seconds", "Seconds of the site's last work.", ["site"], seconds)
        replies = [((row.name, arm), float(n)) for row in rows for arm, n in row.replies.items()]
        yield self._counter("replies", "Replies that count.", ["site", "arm"], replies)
        size = [
            ((way, row.name), float(n)) for row in rows for way, n in (("up", row.bytes_up), ("down", row.bytes_down))
        ]
        yield self._counter("bytes", "Bytes up from and down to a site.", ["direction", "site"], size)
        misses = [((row.name, code), float(n)) for row in rows for code, n in row.misses.items()]
        yield self._counter("misses", "Answers that did not come or did not count.", ["site", "code"], misses)

    def _gauge(self, name: str, help_: str, labels: list[str], samples: Iterable[Sample]) -> Any:
        return _filled(self._core.GaugeMetricFamily(f"omnifed_{name}", help_, labels=labels), samples)

    def _counter(self, name: str, help_: str, labels: list[str], samples: Iterable[Sample]) -> Any:
        # prometheus_client adds the "_total" of a counter's name
        return _filled(self._core.CounterMetricFamily(f"omnifed_{name}", help_, labels=labels), samples)


def _filled(family: Any, samples: Iterable[Sample]) -> Any:
    for labels, value in samples:
        family.add_metric(list(labels), value)
    return family
