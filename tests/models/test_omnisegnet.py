"""The network: shapes, determinism, groups, options, what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec, partition
from omnifed.models.omnisegnet import Gate
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student

torch.set_num_threads(1)
COMPACT = StudentSpec.parse("omnisegnet:compact")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    stem=st.sampled_from(["stem_stride=1", "stem_stride=2", "stem_stride=2,head=shuffle"]),
    fusion=st.sampled_from(["group", "depthwise"]),
    norm=st.sampled_from(["norm=batch", "norm=group", "branches=true"]),
    se=st.sampled_from(["true", "false", "stage"]),
    decoder=st.sampled_from(["upsample=nearest", "expansion=1", "aspp=false"]),
    batch=st.integers(1, 2),
)
@settings(max_examples=15, deadline=None)
def test_every_option_maps_an_image_to_full_size_logits_and_learns_everywhere(stem, fusion, norm, se, decoder, batch):
    spec = StudentSpec.parse(f"omnisegnet:alpha=0.6,beta=0.5,{stem},fusion={fusion},{norm},se={se},{decoder}")
    stride = spec.stem_stride
    model = build_student(spec, SiteSpec(1, 3))
    assert isinstance(model, Student)
    out = model(drawn(batch, 1, 32, 64))
    assert out.logits.shape == (batch, 3, 32, 64)
    down = 16 * stride
    assert out.features["bottleneck"].shape == (batch, model.feature_channels["bottleneck"], 32 // down, 64 // down)
    out.logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_same_seed_same_weights_and_the_global_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = (build_student(COMPACT, SiteSpec(3, 2), seed=s).state_dict() for s in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["stem.conv.weight"], c["stem.conv.weight"])


def test_sites_with_other_channels_and_classes_start_from_the_same_shared_weights():
    a, b = build_student(COMPACT, SiteSpec(3, 2)).state_dict(), build_student(COMPACT, SiteSpec(1, 5)).state_dict()
    differ = {key for key in a if a[key].shape != b[key].shape or not torch.equal(a[key], b[key])}
    assert differ == {"stem.conv.weight", "head.weight", "head.bias"}


def test_groups_cover_the_state_and_split_it_for_fedbn():
    model = build_student(COMPACT, SiteSpec(1, 2))
    groups = model.layer_groups()
    assert groups.keys() == model.state_dict().keys()
    assert groups["stem.conv.weight"] == "stem"
    assert groups["stem.norm.running_var"] == "norm"
    assert groups["encoder.4.0.gate.excite.bias"] == "encoder"
    assert groups["context.dilated.2.weight"] == "context"
    assert groups["context.dilated_norm.2.num_batches_tracked"] == "norm"
    assert groups["decoder.3.mix.weight"] == "decoder"
    assert groups["head.bias"] == "head"
    sides = partition(groups, ("stem", "norm", "head"))
    kept = {key.split(".")[0] for key, side in sides.items() if side == "global"}
    assert kept == {"encoder", "context", "decoder"}


def test_gate_by_hand():
    gate = Gate(16)
    for p in gate.parameters():
        torch.nn.init.zeros_(p)
    x = drawn(1, 16, 4, 4)
    assert torch.equal(gate(x), x)
    torch.nn.init.constant_(gate.excite.bias, float(torch.log(torch.tensor(3.0))))  # sigmoid(ln 3) = 3/4
    assert torch.allclose(gate(x), 1.5 * x)


def test_one_image_trains_with_batch_norm_and_leaves_the_pooled_statistics_finite():
    model = build_student(COMPACT.model_copy(update={"stem_stride": 2}), SiteSpec(1, 2))
    for step in range(3):
        model(drawn(1, 1, 32, 32, seed=step)).logits.mean().backward()
    state = model.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert torch.equal(state["context.pooled_norm.running_var"], torch.ones(160))


def test_group_norm_sees_each_image_alone():
    model = build_student(COMPACT.model_copy(update={"norm": "group"}), SiteSpec(1, 2))
    pair = drawn(2, 1, 32, 32)
    assert torch.allclose(model(pair).logits[:1], model(pair[:1]).logits, atol=1e-5)


def test_logits_are_fp32_under_autocast():
    model = build_student(COMPACT, SiteSpec(1, 2))
    x = drawn(2, 1, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.logits.dtype == torch.float32
    assert out.features["bottleneck"].dtype == torch.bfloat16
    with torch.no_grad():
        assert (out.logits - model(x).logits).abs().mean() < 0.02


def test_initial_classes_are_equally_likely():
    probabilities = build_student(COMPACT, SiteSpec(3, 4))(drawn(2, 3, 64, 64)).logits.softmax(1)
    assert (probabilities - 0.25).abs().max() < 0.15


@pytest.mark.parametrize("shape", [(1, 1, 40, 32), (1, 3, 32, 32), (1, 32, 32)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(OmniFedError, match="OF303"):
        build_student(COMPACT, SiteSpec(1, 2))(torch.zeros(shape))


def test_stem_stride_two_asks_for_multiples_of_32():
    model = build_student(COMPACT.model_copy(update={"stem_stride": 2}), SiteSpec(1, 2)).eval()
    with pytest.raises(OmniFedError, match="multiples of 32"):
        model(torch.zeros(1, 1, 48, 48))


def test_volumes_are_refused():
    with pytest.raises(OmniFedError, match="OF302"):
        build_student(COMPACT, SiteSpec(1, 2, dimensions=3))
