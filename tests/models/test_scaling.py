"""The rule against Table 1 and against the network that torch builds."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.scaling import architecture_key, blocks, channels, costs
from omnifed.models.slices import state_shapes
from omnifed.models.spec import PRESETS, StudentSpec

torch.set_num_threads(1)


@st.composite
def specs_of(draw):
    stride, norm = draw(st.sampled_from([1, 2])), draw(st.sampled_from(["batch", "group"]))
    return StudentSpec(
        alpha=draw(st.floats(0.6, 1.5)),
        beta=draw(st.floats(0.5, 2.0)),
        stem_stride=stride,
        fusion=draw(st.sampled_from(["group", "depthwise"])),
        upsample=draw(st.sampled_from(["bilinear", "nearest"])),
        head=draw(st.sampled_from(["pointwise", "shuffle"])) if stride == 2 else "pointwise",
        expansion=draw(st.integers(1, 4)),
        branches=norm == "batch" and draw(st.booleans()),
        norm=norm,
        se=draw(st.sampled_from([True, False, "stage"])),
        aspp=draw(st.booleans()),
    )


specs = specs_of()
sites = st.builds(SiteSpec, channels=st.sampled_from([1, 3]), classes=st.integers(1, 9))


@pytest.mark.parametrize(
    ("preset", "widths", "encoder", "decoder", "params", "macs"),
    [
        ("compact", (16, 32, 64, 128, 160), (2, 1, 1, 1, 1), (2, 2, 1, 1), 1_560_553, 2_301_251_840),
        ("balanced", (32, 48, 96, 192, 256), (2, 2, 2, 2, 2), (3, 3, 2, 2), 3_225_213, 6_301_819_520),
        ("accurate", (32, 64, 144, 272, 368), (3, 3, 3, 3, 2), (4, 4, 3, 3), 6_028_277, 10_716_906_624),
    ],
)
def test_presets_have_exactly_the_figures_of_the_table(preset, widths, encoder, decoder, params, macs):
    spec = StudentSpec.parse(f"omnisegnet:{preset}")
    assert channels(spec) == widths
    assert (blocks(spec).encoder, blocks(spec).decoder) == (encoder, decoder)
    assert costs(spec, SiteSpec(3, 1), 256) == costs(spec, SiteSpec(3, 1), (256, 256))
    found = costs(spec, SiteSpec(3, 1))
    assert (found.params, found.macs) == (params, macs)


@pytest.mark.parametrize(
    ("preset", "millions", "giga"), [("compact", 1.561, 4.60), ("balanced", 3.225, 12.60), ("accurate", 6.028, 21.43)]
)
def test_presets_print_as_the_table_prints(preset, millions, giga):
    found = costs(StudentSpec.parse(f"omnisegnet:{preset}"), SiteSpec(3, 1))
    assert round(found.params / 1e6, 3) == millions
    assert round(2 * found.macs / 1e9, 2) == giga


def counted(model: nn.Module, site: SiteSpec, size: tuple[int, int]) -> int:
    """Multiply-accumulates of every convolution and linear layer that runs."""
    total = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal total
        per_output = layer.weight[0].numel()
        total += per_output * out.numel()

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, site.channels, *size))
    for handle in handles:
        handle.remove()
    return total


@given(spec=specs, site=sites, rows=st.sampled_from([32, 64]))
@settings(max_examples=15, deadline=None)
def test_closed_form_equals_what_torch_builds_and_runs(spec, site, rows):
    model = build_student(spec, site)
    found = costs(spec, site, (rows, 32))
    kept = [p for key, p in model.named_parameters() if not re.search(r"\.(scale|scale_norm|same_norm)\.", key)]
    assert found.params == sum(p.numel() for p in kept)
    assert found.macs == counted(model.folded(), site, (rows, 32))
    assert state_shapes(spec, site) == {key: tuple(value.shape) for key, value in model.state_dict().items()}


@given(a=specs, b=specs)
@settings(max_examples=200, deadline=None)
def test_key_is_equal_exactly_where_shapes_and_options_are(a, b):
    same_options = a.model_copy(update={"alpha": b.alpha, "beta": b.beta}) == b
    same = same_options and state_shapes(a, SiteSpec(1, 2)) == state_shapes(b, SiteSpec(1, 2))
    assert (architecture_key(a) == architecture_key(b)) == same


def test_pairs_that_round_to_one_network_share_a_key():
    assert architecture_key(StudentSpec(alpha=0.62, beta=0.54)) == architecture_key(StudentSpec(alpha=0.60, beta=0.55))
    assert architecture_key(StudentSpec(alpha=0.62)) != architecture_key(StudentSpec(alpha=0.66))


def test_stem_stride_two_quarters_the_work():
    base, half = StudentSpec(), StudentSpec(stem_stride=2)
    site = SiteSpec(3, 2)
    assert costs(half, site).params == costs(base, site).params
    assert 0.249 < costs(half, site).macs / costs(base, site).macs < 0.251


def test_few_distinct_networks_exist():
    grid = [(0.6 + i / 100, 0.5 + j / 100) for i in range(91) for j in range(151)]
    keys = {architecture_key(StudentSpec(alpha=round(a, 2), beta=round(b, 2))) for a, b in grid}
    assert 100 < len(keys) < 1000


@pytest.mark.parametrize("text", ["omnisegnet:huge", "unet:compact", "omnisegnet:alpha=9", "omnisegnet:colour=1", ""])
def test_unknown_students_are_refused(text):
    from omnifed.errors import OmniFedError

    with pytest.raises(OmniFedError, match="OF301"):
        StudentSpec.parse(text)


def test_options_parse():
    spec = StudentSpec.parse("omnisegnet:balanced,stem_stride=2,fusion=depthwise,norm=group,se=false")
    assert (spec.alpha, spec.beta) == PRESETS["balanced"]
    assert (spec.stem_stride, spec.fusion, spec.norm, spec.se, spec.aspp) == (2, "depthwise", "group", False, True)
    assert StudentSpec.parse("omnisegnet:alpha=1,beta=0.7") == StudentSpec(alpha=1.0, beta=0.7)
    spec = StudentSpec.parse("omnisegnet:compact,stem_stride=2,head=shuffle,upsample=nearest,expansion=2,branches=true")
    assert (spec.head, spec.upsample, spec.expansion, spec.branches, spec.se) == ("shuffle", "nearest", 2, True, True)
    assert StudentSpec.parse("omnisegnet:compact,se=stage").se == "stage"


@pytest.mark.parametrize("text", ["head=shuffle", "branches=true,norm=group"])
def test_options_that_exclude_each_other_are_refused(text):
    from omnifed.errors import OmniFedError

    with pytest.raises(OmniFedError, match="OF301"):
        StudentSpec.parse(f"omnisegnet:compact,{text}")


def test_keys_of_the_paper_s_networks_do_not_change_when_options_are_added():
    spec = StudentSpec.parse("omnisegnet:compact")
    assert architecture_key(spec) == ("omnisegnet/c16-32-64-128-160/e2-1-1-1-1/d2-2-1-1/stem1/group/batch/se/aspp")
    more = spec.model_copy(update={"stem_stride": 2, "head": "shuffle", "expansion": 2, "se": "stage"})
    assert architecture_key(more).endswith("/stem2/group/batch/stagese/aspp/shuffle/expand2")


def test_edge_presets_are_the_paper_s_sizes_with_options_for_speed():
    spec = StudentSpec.parse("omnisegnet:balanced-edge")
    assert spec == StudentSpec.parse("omnisegnet:balanced,stem_stride=2,fusion=depthwise,branches=true")
    assert StudentSpec.parse("omnisegnet:balanced-edge,branches=false").branches is False
    paper = StudentSpec.parse("omnisegnet:balanced")
    assert costs(spec, SiteSpec(3, 2)).macs < costs(paper, SiteSpec(3, 2)).macs / 8
