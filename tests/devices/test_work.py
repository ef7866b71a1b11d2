"""Counts of work, by hand and against the exact costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.devices.work import work
from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import costs
from omnifed.models.spec import StudentSpec

SITE = SiteSpec(1, 2)


def test_memory_of_the_smallest_student_by_hand() -> None:
    got = work(StudentSpec.parse("omnisegnet:compact"), SITE, (16, 16))
    skips = 16 * 256 + 32 * 64 + 64 * 16 + 128 * 4
    expansion = (2 * 16 + 3 * 16) * 256  # the widest layer: two concatenated maps of 16 channels to 48
    assert got.activations_mib == (skips + expansion) * 4 / 2**20
    # Compact's parameters without those of norms (2 a channel) and biases.
    assert got.weights_mib == pytest.approx(1_560_553 * 4 / 2**20, rel=0.02)


@given(
    alpha=st.floats(0.6, 1.5),
    beta=st.floats(0.5, 2.0),
    stem=st.sampled_from((1, 2)),
    fusion=st.sampled_from(("group", "depthwise")),
    aspp=st.booleans(),
)
def test_kinds_of_layers_add_up_to_the_exact_costs(alpha, beta, stem, fusion, aspp) -> None:
    student = StudentSpec(alpha=alpha, beta=beta, stem_stride=stem, fusion=fusion, aspp=aspp)
    got = work(student, SITE, (64, 96))
    macs = 1e9 * (got.dense.gmac + got.pointwise.gmac + got.depthwise.gmac)
    assert macs == pytest.approx(costs(student, SITE, (64, 96)).macs, rel=1e-12)


def test_fusion_moves_work_from_dense_to_depthwise() -> None:
    group = work(StudentSpec(), SITE, (32, 32))
    depthwise = work(StudentSpec(fusion="depthwise"), SITE, (32, 32))
    assert depthwise.dense.gmac < group.dense.gmac
    assert depthwise.depthwise.gmac > group.depthwise.gmac
    assert depthwise.pointwise == group.pointwise


def test_a_size_that_the_student_cannot_halve() -> None:
    with pytest.raises(OmniFedError, match="40 x 64, multiples of 16") as caught:
        work(StudentSpec(), SITE, (40, 64))
    assert caught.value.code == "OF303"
