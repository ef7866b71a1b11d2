"""Every distinct network once, under the roundest name, with exact costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_space import SITE, SIZE, networks

from omnifed.errors import OmniFedError
from omnifed.models.scaling import architecture_key, costs
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.search.space import Space

ALL = networks()
SPACE = Space(ALL)


def test_an_option_set_has_420_networks_each_once_with_exact_costs() -> None:
    assert len(ALL) == len({network.key for network in ALL}) == 420
    for network in ALL[::60]:
        assert architecture_key(network.student) == network.key
        assert (network.params, network.macs) == vars_of(network.student)


def vars_of(student: StudentSpec) -> tuple[int, int]:
    cost = costs(student, SITE, SIZE)
    return cost.params, cost.macs


@settings(max_examples=60, deadline=None)
@given(st.floats(0.6, 1.5), st.floats(0.5, 2.0))
def test_whatever_alpha_and_beta_are_their_network_is_there(alpha: float, beta: float) -> None:
    key = architecture_key(StudentSpec(alpha=alpha, beta=beta, stem_stride=2))
    assert SPACE.position((np.log(alpha), np.log(beta), 0, 0)) == SPACE.index[key]


def test_presets_stand_for_their_networks() -> None:
    sizes = {(network.student.alpha, network.student.beta) for network in ALL}
    assert set(PRESETS.values()) <= sizes


def test_bounds_are_held_and_options_multiply() -> None:
    few = networks(alpha=(0.62, 0.68), beta=(0.5, 0.55))
    assert [(n.student.alpha, n.student.beta) for n in few] == [(0.62, 0.5), (0.62, 0.54), (0.68, 0.5), (0.68, 0.55)]
    both = networks(alpha=(1.0, 1.0), beta=(1.0, 1.0), stem_strides=(1, 2), fusions=("group", "depthwise"))
    assert [(n.student.stem_stride, n.student.fusion) for n in both] == [
        (1, "group"), (1, "depthwise"), (2, "group"), (2, "depthwise"),
    ]  # fmt: skip
    space = Space(both)
    assert [space.position(genome) for genome in space.genomes] == [0, 1, 2, 3]


def test_features_run_from_the_smallest_to_the_largest_of_the_family() -> None:
    assert SPACE.features[:, :2].min(0).tolist() == [0, 0]
    assert SPACE.features[:, :2].max(0).tolist() == [1, 1]


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(OmniFedError) as caught:
        Space(())
    assert caught.value.code == "OF741"
