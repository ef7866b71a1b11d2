"""One search as a coordinator runs it: asks, is told, and takes up where a killed one stopped. Needs no torch.

Whatever happens is in the :class:`~omnifed.search.journal.Journal` before it counts, and it counts by the same code
when it happens and when the journal is replayed: after ``kill -9`` the history is the same, and so is the next
question.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from omnifed.errors import OmniFedError
from omnifed.search.journal import Event, Journal, newer
from omnifed.search.trials import History, Observation, Searcher, Trial


class Study:
    """A searcher and its journal.

    Args:
        searcher: asks; it may be replaced between two questions.
        path: the journal; it is made where it is missing.
        about: what the study is of, as JSON can say it: all that the searcher's questions depend on.
        now: the clock, seconds since 1970. Times are kept and never influence what is asked.

    Raises:
        OmniFedError: OF730..OF733 and OF103 as :class:`~omnifed.search.journal.Journal`.
    """

    def __init__(
        self, searcher: Searcher, path: Path, about: dict[str, Any], now: Callable[[], float] = time.time
    ) -> None:
        self.searcher = searcher
        self._known: dict[str, Trial] = {}
        self._told: dict[str, Observation] = {}
        self._pending: dict[str, Trial] = {}
        self._failed: dict[str, Trial] = {}
        self._asked, self._expired = 0, 0
        self._strikes: Counter[str] = Counter()
        self._spent, self._last = 0.0, (0, 0.0)
        self._journal = Journal(path, about, now)
        try:
            for event in self._journal.events():
                self._apply(event)
        except (ValidationError, KeyError) as error:
            self.close()
            raise newer(path, f"event {event['n']}: {str(error).splitlines()[0]}") from None

    def ask(self, sites: Sequence[str]) -> list[Trial]:
        """Trials for sites that are free, at most one a site; they are in the journal when this returns.

        A trial that is pending at a free site is given again, with the same id: its answer was lost with the
        coordinator that asked, and a site that has finished it answers from its store.

        Args:
            sites: registered names of free sites, in the order in which they are to be served.

        Returns:
            Pending trials, then new ones; none where the searcher has nothing to ask now.

        Raises:
            OmniFedError: OF103 if the journal cannot be written, and what the searcher raises.
            ValueError: if the searcher asks what was told or is pending, or of a site that is not free.
        """
        again: dict[str, Trial] = {}
        for trial in self._pending.values():
            if trial.site in sites:
                again.setdefault(trial.site, trial)
        free = [site for site in sites if site not in again]
        new = self.searcher.ask(self.history, free) if free else []
        asked_of = Counter(trial.site for trial in new)
        if not asked_of <= Counter(set(free)) or any(t.id in self._told or t.id in self._pending for t in new):
            raise ValueError(f"a searcher must ask new trials of free sites {free}, not {new}")
        if new:
            # One line for all: a crash leaves the whole question or none of it, so the searcher sees the same history.
            trials = [trial.model_dump(mode="json") for trial in new]
            self._add({"event": "asked", "before": self._asked, "trials": trials})
        return [*again.values(), *new]

    def tell(self, observation: Observation) -> bool:
        """Counts what a site has answered, also if its trial had been given up.

        Returns:
            Whether it counts; False if the trial has been told before.

        Raises:
            OmniFedError: OF734 for a figure that is not finite or out of its range, OF735 for a trial that this study
                has not asked, OF103 if the journal cannot be written. Nothing is counted then.
        """
        self._check_asked(observation.trial)
        if observation.trial.id in self._told:
            return False
        self._add({"event": "told", "observation": _finite(observation)})
        return True

    def fail(self, trial: Trial, code: str, rule: str) -> None:
        """Counts a trial that its site could not do; it changes nothing if the trial was told or has failed already.

        Args:
            trial: as asked.
            code: number of the site's error.
            rule: that was broken, without any value.

        Raises:
            OmniFedError: OF735 for a trial that this study has not asked, OF103 if the journal cannot be written.
        """
        self._check_asked(trial)
        if trial.id in self._pending or (trial.id not in self._told and trial.id not in self._failed):
            self._add({"event": "failed", "trial": trial.model_dump(mode="json"), "code": code, "rule": rule})

    def expire(self, trial: Trial, rule: str) -> None:
        """Gives up a trial that was lost or is late; it may be asked again. Nothing changes if it is not pending.

        Args:
            trial: as asked.
            rule: that was broken, without any value.

        Raises:
            OmniFedError: OF735 for a trial that this study has not asked, OF103 if the journal cannot be written.
        """
        self._check_asked(trial)
        if trial.id in self._pending:
            self._add({"event": "expired", "trial": trial.model_dump(mode="json"), "rule": rule})

    @property
    def history(self) -> History:
        """All that the searcher may look at."""
        return History(
            told=tuple(self._told.values()),
            pending=tuple(self._pending.values()),
            asked=self._asked,
            failed=tuple(self._failed.values()),
        )

    @property
    def trials(self) -> dict[str, int]:
        """How many were ``asked``, ``told`` and ``failed``, are ``pending``, and how often one ``expired``."""
        counts = {"told": len(self._told), "pending": len(self._pending), "failed": len(self._failed)}
        return {"asked": self._asked, **counts, "expired": self._expired}

    @property
    def seconds(self) -> float:
        """Work at the sites, over all observations."""
        return sum(seen.seconds for seen in self._told.values())

    @property
    def spent_s(self) -> float:
        """Wall time of all sessions up to the last event, seconds; pauses between sessions do not count."""
        return self._spent

    def failures(self, site: str) -> int:
        """Trials in a row that ``site`` could not do, since its last observation; lost and late ones do not count."""
        return self._strikes[site]

    def close(self) -> None:
        """Lets another process have the journal; what was told can still be read."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_asked(self, trial: Trial) -> None:
        if self._known.get(trial.id) != trial:
            raise OmniFedError(
                "OF735",
                "An answer must be to a trial that the study has asked.",
                seen=f"trial {trial.id} of {trial.site}",
                remedy="See that each study has a folder and a campaign name of its own; the answer is not counted.",
            )

    def _add(self, event: Event) -> None:
        self._apply(self._journal.append(event))

    def _apply(self, event: Event) -> None:
        """What an event changes: the only code that does, live and in a replay."""
        self._tick(event)
        match event["event"]:
            case "asked":
                trials = [Trial.model_validate(trial) for trial in event["trials"]]
                self._asked = event["before"] + len(trials)
                self._known |= {trial.id: trial for trial in trials}
                self._pending |= {trial.id: trial for trial in trials}
            case "told":
                seen = Observation.model_validate(event["observation"])
                self._settle(seen.trial)
                self._told[seen.trial.id] = seen
                self._strikes[seen.trial.site] = 0
            case "failed":
                trial = Trial.model_validate(event["trial"])
                self._settle(trial)
                self._failed[trial.id] = trial
                self._strikes[trial.site] += 1
            case "expired":
                trial = Trial.model_validate(event["trial"])
                self._pending.pop(trial.id, None)
                self._known[trial.id] = trial
                self._expired += 1

    def _settle(self, trial: Trial) -> None:
        self._known[trial.id] = trial
        self._pending.pop(trial.id, None)
        self._failed.pop(trial.id, None)

    def _tick(self, event: Event) -> None:
        """Adds the time since the event before, if that was of the same session; a clock set back adds nothing."""
        number, before = self._last
        if event["event"] != "opened" and event["n"] == number + 1:
            self._spent += max(0.0, event["time"] - before)
        self._last = (event["n"], event["time"])


def _finite(observation: Observation) -> dict[str, Any]:
    """The observation for the journal."""
    figures = (observation.dice, observation.se, observation.seconds, observation.step_seconds)
    try:
        if not all(math.isfinite(figure) for figure in figures):
            raise ValueError("not finite")
        return Observation.model_validate(observation.model_dump()).model_dump(mode="json")
    except ValueError:
        raise OmniFedError(
            "OF734",
            "A trial's figures must be finite numbers: Dice 0..1, its standard error and times not negative.",
            seen=f"trial {observation.trial.id} of {observation.trial.site}: dice, se, seconds, step {figures}",
            remedy="Count the trial as failed; at the site, see that it has validation cases with masks.",
        ) from None
