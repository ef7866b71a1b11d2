"""What the sites get in a round, and what they hold after it: one set of weights for all, known bit for bit.

With ``int8-delta`` the coordinator follows what the sites hold. Each round it sends the change from there to the global
state, in int8 steps; what the steps miss is part of the next change, because the next change starts from what is held.
A site that did not answer the last round, or has lost its copy, gets all of what the others hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from omnifed.federation.tasks import FitTask
from omnifed.federation.wire import Sent, cut, encode
from omnifed.models.slices import SliceMap, take
from omnifed.models.spec import StudentSpec
from omnifed.states import State
from omnifed_server.arm import ArmConfig
from omnifed_server.ledger import Ledger


@dataclass
class Downlink:
    """The way down in one round.

    Attributes:
        config: of the arm.
        maps: where each student lies in the largest one; None for the largest itself.
        round: 0-based.
        state: global state before the round.
        held: the same, as the sites will hold it.
        change: what travels to a site that holds round ``base``.
        base: round that ``change`` refers to: -1 is all zeros, None means that ``change`` is no change but the whole.
        answered: sites that hold round ``base``.
    """

    config: ArmConfig
    maps: Mapping[StudentSpec, SliceMap | None]
    round: int
    state: State
    held: State
    change: State
    base: int | None = None
    answered: frozenset[str] = frozenset()
    _parts: dict[tuple[StudentSpec, bool], State] = field(default_factory=dict)

    def message(self, site: str, scales: dict[str, float], *, whole: bool = False) -> tuple[FitTask, State]:
        """The task of ``site`` and the weights that travel with it.

        Args:
            site: registered name.
            scales: OmniKD's m_i.
            whole: send all, even to a site that should hold the base.
        """
        base = None if whole or site not in self.answered else self.base
        as_change = base is not None or self.config.wire != "int8-delta"
        return self.config.task(self.round, site, scales, base), self._part(site, as_change)

    def held_by(self, site: str) -> State:
        """What ``site`` holds once it has its message: what its reply refers to."""
        found = self.maps[self.config.student_of(site)]
        return take(self.held, found) if found else self.held

    def restore(self, mean: State) -> State:
        """Adds to a mean of replies what their sites had not been told.

        The sites trained from ``held`` instead of the global state. Without this, steps of the mean that are smaller
        than the grid of the coding would be lost in each round.
        """
        if self.held is self.state:
            return mean
        return {key: self._restored(key, value) for key, value in mean.items()}

    def _restored(self, key: str, value: np.ndarray) -> np.ndarray:
        if value.dtype.kind != "f":
            return value
        missing = self.state[key].astype(np.float64) - self.held[key]
        return np.asarray(value + missing, dtype=value.dtype)

    def _part(self, site: str, as_change: bool) -> State:
        # Sites of one student share one object, so that the transport packs it once.
        student = self.config.student_of(site)
        key = student, as_change
        if key not in self._parts:
            found = self.maps[student]
            source = self.change if as_change else self.held
            if found and as_change and self.base is not None:
                self._parts[key] = cut(source, found, take(self.held, found))
            else:
                self._parts[key] = take(source, found) if found else source
        return self._parts[key]


def downlink(
    config: ArmConfig, ledger: Ledger, maps: Mapping[StudentSpec, SliceMap | None], round_: int, state: State
) -> Downlink:
    """Prepares the way down; the same at each call, also after a crash.

    Args:
        config: of the arm.
        ledger: where what the sites held is kept.
        maps: where each student lies in the largest one.
        round_: 0-based.
        state: global state before it.
    """
    if not config.aggregate or config.wire == "fp32":
        return Downlink(config, maps, round_, state, held=state, change=state)
    if config.wire == "bf16":
        sent = encode(state, "bf16")
        return Downlink(config, maps, round_, state, held=sent.held, change=sent.arrays)
    before = ledger.load_held(round_ - 1)
    if round_ and before is None:
        # What the sites hold was lost with its file: all begin anew, from the whole state.
        ledger.save_held(round_, state)
        return Downlink(config, maps, round_, state, held=state, change=state)
    sent = _change(state, before)
    ledger.save_held(round_, sent.held)
    answered = ledger.records[round_ - 1]["dice"] if round_ else config.sites
    return Downlink(
        config, maps, round_, state, held=sent.held, change=sent.arrays, base=round_ - 1, answered=frozenset(answered)
    )


def _change(state: State, before: State | None) -> Sent:
    # Everybody holds zeros before the first round: so the first weights travel in int8 steps as well.
    return encode(state, "int8-delta", base=before)
