"""The sum is exact whoever drops out when, down to the threshold; below it nothing is revealed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_session import Round, vectors_of

from omnifed.errors import OmniFedError

SCHEDULES = 520
NAMES = ("north", "east", "south", "west", "alpha", "beta", "gamma", "delta")


def play(seed: int) -> tuple[str, int]:
    """One schedule: who drops where, in which order all arrive; how it ended and how many were in the sum."""
    draw = np.random.default_rng([7, seed])
    names = [str(name) for name in draw.permutation(NAMES)[: int(draw.integers(3, 9))]]
    threshold = int(draw.integers(len(names) // 2 + 1, len(names) + 1))
    vectors, parties_of = vectors_of(names, seed=seed), Round(names, threshold)

    def stayers(sites: list[str], spare: int) -> list[str]:
        """Some of ``sites``, in the order in which they arrive: mostly enough, now and then too few."""
        drops = int(draw.integers(0, max(0, spare) + 1 + (draw.random() < 0.15)))
        return [str(site) for site in draw.permutation(sites)[: len(sites) - min(drops, len(sites))]]

    here = stayers(names, len(names) - threshold)
    if len(here) < threshold:
        with pytest.raises(OmniFedError, match="OF841"):
            parties_of.share(here[0] if here else names[0], parties_of.adverts(here or names[:1]))
        return "keys", 0
    keys = parties_of.adverts(here)
    parties = parties_of.open(here)
    here = stayers(here, len(here) - threshold)
    for site in here:
        parties_of.share(site, keys)
    if len(here) < threshold:
        for site in here:
            with pytest.raises(OmniFedError, match="OF843"):
                parties_of.mask(site, vectors[site])
        return "shares", 0
    here = stayers(here, len(here) - threshold)
    for site in here:
        parties_of.mask(site, vectors[site])
    survivors, receipts = parties_of.survivors(here, parties)
    last = stayers(here, len(here) - threshold)
    if len(here) < threshold:
        for site in here:
            with pytest.raises(OmniFedError, match="OF844"):
                parties_of.reveal(site, survivors, receipts)
        return "masked", 0
    for site in last:
        parties_of.reveal(site, survivors, receipts)
    if len(last) < threshold:
        with pytest.raises(OmniFedError, match="OF847"):
            parties_of.total(parties, here, 5)
        return "unmask", 0
    plain = np.zeros(5, np.uint32)
    for site in here:
        plain += vectors[site]
    np.testing.assert_array_equal(parties_of.total(parties, here, 5), plain)
    return "sum", len(names) - len(here)


def test_random_schedules() -> None:
    ends = [play(seed) for seed in range(SCHEDULES)]
    outcomes = [outcome for outcome, _ in ends]
    assert outcomes.count("sum") > SCHEDULES / 2
    assert {"keys", "shares", "masked", "unmask"} <= set(outcomes)
    assert {0, 1, 2, 3} <= {drops for outcome, drops in ends if outcome == "sum"}


def test_every_pair_of_late_drops_of_six() -> None:
    """t = 4 of 6: any two may vanish between their shares and the sum."""
    names = NAMES[:6]
    vectors = vectors_of(names)
    for gone in itertools.combinations(names, 2):
        parties_of = Round(names, 4)
        parties = parties_of.until_masked(vectors)
        stay = [site for site in names if site not in gone]
        survivors, receipts = parties_of.survivors(stay, parties)
        for site in stay:
            parties_of.reveal(site, survivors, receipts)
        np.testing.assert_array_equal(parties_of.total(parties, stay, 5), sum(vectors[site] for site in stay))


def test_a_masked_vector_shows_nothing_and_differs_each_time() -> None:
    names = NAMES[:3]
    vectors = {site: np.zeros(4096, np.uint32) for site in names}
    first, second = Round(names, 3), Round(names, 3)
    first.until_masked(vectors)
    second.until_masked(vectors)
    for site in names:
        assert np.mean(first.masked[site] / 2**32) == pytest.approx(0.5, abs=0.03)
        assert (first.masked[site] != second.masked[site]).mean() > 0.999
