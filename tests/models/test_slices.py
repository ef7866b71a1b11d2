"""Sub-networks are exact slices: round trip, zero padding, indices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.slices import put, slice_map, state_shapes, take
from omnifed.models.spec import StudentSpec

torch.set_num_threads(1)
SITE = SiteSpec(1, 3)
LARGE = StudentSpec(alpha=1.2, beta=1.1)
SMALL = StudentSpec(alpha=0.6, beta=0.5)


@st.composite
def nested(draw):
    stride, norm = draw(st.sampled_from([1, 2])), draw(st.sampled_from(["batch", "group"]))
    options = {
        "stem_stride": stride,
        "fusion": draw(st.sampled_from(["group", "depthwise"])),
        "upsample": draw(st.sampled_from(["bilinear", "nearest"])),
        "head": draw(st.sampled_from(["pointwise", "shuffle"])) if stride == 2 else "pointwise",
        "expansion": draw(st.integers(1, 4)),
        "branches": norm == "batch" and draw(st.booleans()),
        "norm": norm,
        "se": draw(st.sampled_from([True, False, "stage"])),
        "aspp": draw(st.booleans()),
    }
    alpha, beta = draw(st.floats(0.6, 1.3)), draw(st.floats(0.5, 1.2))
    small = StudentSpec(alpha=alpha, beta=beta, **options)
    large = StudentSpec(alpha=draw(st.floats(alpha, 1.3)), beta=draw(st.floats(beta, 1.2)), **options)
    return large, small


def random_state(spec, seed=0):
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in state_shapes(spec, SITE).items()}


@given(pair=nested())
@settings(max_examples=20, deadline=None)
def test_round_trip_is_bit_exact(pair):
    large, small = pair
    found = slice_map(large, small, SITE)
    assert {key: entry.shape for key, entry in found.items()} == state_shapes(small, SITE)
    whole, part = random_state(large), random_state(small, seed=1)
    before = {key: value.copy() for key, value in whole.items()}
    put(take(whole, found), found, whole)
    assert all(np.array_equal(whole[key], before[key]) for key in whole)
    put(part, found, whole)
    back = take(whole, found)
    assert all(np.array_equal(back[key], part[key]) for key in part)
    touched = sum(int((whole[key] != before[key]).sum()) for key in whole)
    assert touched <= sum(value.size for value in part.values())


def wild(model):
    """Weights and statistics as after training: nothing at its neutral value."""
    generator = torch.Generator().manual_seed(5)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(
                noise.abs() + 0.5
                if key.endswith("running_var")
                else value + 0.3 * noise * value.std(correction=0)
                if value.ndim > 1
                else value + 0.2 * noise
            )
    return model


@given(pair=nested())
@settings(max_examples=8, deadline=None)
def test_slice_computes_what_the_zero_padded_network_computes(pair):
    large, small = pair
    # float64: sums of other lengths round otherwise, and the features of wild weights are in the hundreds.
    little, big = wild(build_student(small, SITE)).double().eval(), build_student(large, SITE).double().eval()
    padded = {key: torch.zeros_like(value) for key, value in big.state_dict().items()}
    put(little.state_dict(), slice_map(large, small, SITE), padded)
    big.load_state_dict(padded)
    x = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        want, got = little(x), big(x)
    scale = want.logits.abs().max()
    assert scale > 1e-3
    assert (want.logits - got.logits).abs().max() <= 1e-4 * scale
    width = little.feature_channels["bottleneck"]
    assert torch.allclose(got.features["bottleneck"][:, :width], want.features["bottleneck"], rtol=1e-3, atol=1e-4)
    assert not got.features["bottleneck"][:, width:].any()


def test_torch_states_and_partial_states():
    found = slice_map(LARGE, SMALL, SITE)
    whole = {key: torch.from_numpy(np.asarray(value)) for key, value in random_state(LARGE).items()}
    part = take({key: value for key, value in whole.items() if key.startswith("decoder")}, found)
    assert part.keys() == {key for key in found if key.startswith("decoder")}
    key = "decoder.3.mix.weight"
    want = torch.cat([whole[key][:112, :112], whole[key][208:320, :112]])
    assert torch.equal(part[key], want)
    into = {key: torch.zeros_like(value) for key, value in whole.items()}
    put(part, found, into)
    assert torch.equal(into[key][208:320, :112], want[112:])
    assert not into[key][112:208].any()


def test_last_decoder_block_goes_to_the_last():
    found = slice_map(LARGE, SMALL, SITE)
    assert found["decoder.0.blocks.1.pointwise.weight"].key == "decoder.0.blocks.2.pointwise.weight"
    assert found["decoder.0.blocks.0.pointwise.weight"].key == "decoder.0.blocks.0.pointwise.weight"
    assert found["encoder.0.1.pointwise.weight"].key == "encoder.0.1.pointwise.weight"
    assert len({entry.key for entry in found.values()}) == len(found)


def test_an_index_serves_running_sums():
    found, shapes = slice_map(LARGE, SMALL, SITE), state_shapes(LARGE, SITE)
    for key, entry in found.items():
        held = np.zeros(shapes[entry.key])
        held[entry.index] += np.ones(entry.shape)
        held[entry.index] += np.ones(entry.shape)
        assert held.sum() == 2 * np.prod(entry.shape), key
        assert entry.large_shape == held.shape


def test_what_does_not_fit_is_refused():
    with pytest.raises(OmniFedError, match="OF304"):
        slice_map(SMALL, LARGE, SITE)
    with pytest.raises(OmniFedError, match="OF304"):
        slice_map(LARGE, SMALL.model_copy(update={"se": False}), SITE)
    found, whole = slice_map(LARGE, SMALL, SITE), random_state(LARGE)
    with pytest.raises(OmniFedError, match="OF305"):
        put({"head.bias": np.zeros(4, np.float32)}, found, whole)
    with pytest.raises(OmniFedError, match="OF305"):
        put({"tail.bias": np.zeros(3)}, found, whole)
