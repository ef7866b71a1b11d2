"""Codings of what travels: numbers made by hand, and bounds that hold for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from omnifed.errors import OmniFedError
from omnifed.federation.wire import CHECK, NO_BASE, SCALES, Sent, cut, decode, encode
from omnifed.models.base import SiteSpec
from omnifed.models.slices import slice_map, state_shapes, take
from omnifed.models.spec import StudentSpec

MATRIX = arrays.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def f32(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype
        assert value.tobytes() == other[key].tobytes()


def test_fp32_travels_as_it_is() -> None:
    state = {"a": f32([1, 2]), "n": np.array(3)}
    sent = encode(state, "fp32")
    same_bits(sent.arrays, state)
    same_bits(decode(sent.arrays, "fp32"), state)
    assert sent.lost == {}


def test_bf16_rounds_to_the_nearest_and_ties_to_even() -> None:
    # bfloat16 has 8 significant bits: between 1 and 2 the step is 2**-7.
    step = 2.0**-7
    state = {"w": f32([1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, -1 - step / 4, 0.0])}
    sent = encode(state, "bf16")
    assert sent.arrays["w"].dtype == np.uint16
    assert sent.arrays["w"][0].tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0]
    np.testing.assert_array_equal(sent.held["w"], f32([1, 1 + 2 * step, 1 + step, -1, 0]))
    np.testing.assert_array_equal(sent.lost["w"], state["w"] - sent.held["w"])


def test_int8_steps_by_hand() -> None:
    base = {"w": f32([1.0, 1.0], [1.0, 1.0])}
    state = {"w": f32([1.0, 1.0 + 127 * 0.25], [1.0 - 63 * 0.25, 1.1])}
    sent = encode(state, "int8-delta", base=base)
    assert sent.arrays["w"].tolist() == [[0, 127], [-63, 0]]
    assert sent.arrays[SCALES].tolist() == [0.25]
    np.testing.assert_array_equal(sent.held["w"], f32([1.0, 32.75], [-14.75, 1.0]))
    np.testing.assert_array_equal(sent.lost["w"], state["w"] - sent.held["w"])
    same_bits(decode(sent.arrays, "int8-delta", base=base), sent.held)


def test_vectors_and_integers_travel_as_they_are() -> None:
    state = {"w": f32([1, 2]), "running_var": np.array([1e-9, 5e3], np.float32), "count": np.array(7)}
    for wire in ("bf16", "int8-delta"):
        sent = encode(state, wire)
        assert sent.arrays["running_var"].dtype == np.float32
        back = decode(sent.arrays, wire)
        same_bits(
            {k: back[k] for k in ("running_var", "count")},
            {"running_var": state["running_var"], "count": state["count"]},
        )


def test_what_is_lost_arrives_with_the_next() -> None:
    """A weight that moves by less than half a step each round, beside one that sets the step."""
    held, lost = {"w": f32([0, 0])}, {}
    for round_ in range(10):
        target = {"w": held["w"] + f32([127.0, 0.3])}
        sent = encode(target, "int8-delta", base=held, lost=lost)
        held, lost = sent.held, sent.lost
        if round_ < 4:
            assert held["w"][0, 1] == (0, 1, 1, 1)[round_]
    assert held["w"].tolist() == [[1270.0, 3.0]]
    without = f32([0, 0])
    for _ in range(10):
        without = encode({"w": without + f32([127.0, 0.3])}, "int8-delta", base={"w": without}).held["w"]
    assert without.tolist() == [[1270.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(MATRIX, MATRIX)
def test_int8_is_within_half_a_step_and_the_same_at_both_ends(value: np.ndarray, origin: np.ndarray) -> None:
    state, base = {"w": value}, {"w": origin}
    sent = encode(state, "int8-delta", base=base)
    same_bits(decode(sent.arrays, "int8-delta", base={"w": origin.copy()}), sent.held)
    step = np.abs(value.astype(np.float64) - origin).max() / 127
    slack = 1e-5 * (np.abs(value).max() + np.abs(origin).max()) + 1e-44
    assert np.abs(value.astype(np.float64) - sent.held["w"]).max() <= step / 2 * 1.001 + slack


@settings(max_examples=60, deadline=None)
@given(MATRIX)
def test_bf16_is_within_a_256th_and_the_same_at_both_ends(value: np.ndarray) -> None:
    sent = encode({"w": value}, "bf16")
    same_bits(decode(sent.arrays, "bf16"), sent.held)
    assert (np.abs(value.astype(np.float64) - sent.held["w"]) <= np.abs(value) / 256 + 1e-40).all()
    same_bits({"w": encode(sent.held, "bf16").held["w"]}, sent.held)  # what is on the grid stays


@settings(max_examples=40, deadline=None)
@given(st.lists(arrays.arrays(np.float32, (2, 3), elements=st.floats(-1, 1, width=32)), min_size=1, max_size=6))
def test_the_sum_of_what_arrives_is_the_sum_of_what_was_meant(changes: list[np.ndarray]) -> None:
    for wire in ("bf16", "int8-delta"):
        meant, arrived = np.zeros((2, 3)), np.zeros((2, 3))
        lost: dict[str, np.ndarray] = {}
        for change in changes:
            base = {"w": np.zeros((2, 3), np.float32)}
            sent = encode({"w": change}, wire, base=base, lost=lost)
            lost = sent.lost
            meant, arrived = meant + change, arrived + sent.held["w"]
        np.testing.assert_allclose(arrived + lost["w"], meant, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wire", ["bf16", "int8-delta"])
def test_what_is_not_finite_is_refused_before_it_is_coded(wire, bad) -> None:
    for state in ({"w": f32([1, bad])}, {"v": np.array([bad], np.float32)}):
        with pytest.raises(OmniFedError, match="OF505"):
            encode(state, wire)


def test_what_overflows_is_refused() -> None:
    huge = float(np.finfo(np.float32).max)
    with pytest.raises(OmniFedError, match="OF505"):
        encode({"w": f32([huge])}, "bf16")
    with pytest.raises(OmniFedError, match="OF505"):
        encode({"w": f32([huge])}, "int8-delta", base={"w": f32([-huge])})
    sent = encode({"w": f32([1.0])}, "int8-delta").arrays
    hostile = sent | {SCALES: np.array([huge], np.float32), "w": np.array([[127]], np.int8)}
    with pytest.raises(OmniFedError, match=r"OF505|OF524"):
        decode(hostile, "int8-delta")


def sent_pair() -> tuple[Sent, dict[str, np.ndarray]]:
    base = {"a": f32([1, 2]), "b": f32([3, 4], [5, 6]), "v": np.ones(2, np.float32)}
    return encode({key: value + 1 for key, value in base.items()}, "int8-delta", base=base), base


@pytest.mark.parametrize(
    "change",
    [
        {"a": None},
        {"v": None},
        {"a": f32([1, 2])},
        {"a": np.zeros((2, 1), np.int8)},
        {"c": np.zeros((1, 1), np.int8), SCALES: np.zeros(3, np.float32)},
        {SCALES: None},
        {SCALES: np.array([1.0, np.nan], np.float32)},
        {SCALES: np.array([1.0, -1.0], np.float32)},
        {SCALES: np.ones(3, np.float32)},
        {SCALES: np.ones(2)},
        {CHECK: None},
        {CHECK: np.zeros(2, np.uint32)},
    ],
)
def test_malformed_steps_are_refused(change) -> None:
    sent, base = sent_pair()
    arrays_ = {key: value for key, value in (sent.arrays | change).items() if value is not None}
    with pytest.raises(OmniFedError, match="OF523"):
        decode(arrays_, "int8-delta", base=base)


def test_another_base_is_noticed() -> None:
    sent, base = sent_pair()
    base["b"][0, 0] += 1e-6
    with pytest.raises(OmniFedError, match=NO_BASE):
        decode(sent.arrays, "int8-delta", base=base)


@pytest.mark.parametrize(
    "arrays_",
    [{"w": f32([1])}, {"w": np.zeros(3, np.uint16)}, {"w": np.zeros((1, 1), np.uint16), SCALES: np.ones(1)}],
)
def test_malformed_bf16_is_refused(arrays_) -> None:
    with pytest.raises(OmniFedError, match="OF523"):
        decode(arrays_, "bf16")


def test_a_state_with_the_codings_own_dtype_is_refused() -> None:
    with pytest.raises(OmniFedError, match="OF523"):
        encode({"w": np.zeros((1, 1), np.int8)}, "int8-delta")
    with pytest.raises(OmniFedError, match="OF523"):
        encode({"w": np.zeros((1, 1), np.uint16)}, "bf16")


def test_nothing_is_nothing() -> None:
    for wire in ("fp32", "bf16", "int8-delta"):
        assert encode({}, wire).arrays == {}
        assert decode({}, wire) == {}


def test_arrays_that_the_receiver_does_not_hold_travel_as_they_are() -> None:
    base, local = {"a": f32([1, 2])}, f32([7.77, 8.88])
    sent = encode({"a": f32([2, 3]), "head": local}, "int8-delta", base=base)
    back = decode(sent.arrays, "int8-delta", base=base)
    assert back["head"].tobytes() == local.tobytes()
    assert sent.arrays["a"].dtype == np.int8


def test_order_of_names_does_not_matter() -> None:
    """A reply that was on disk meanwhile comes back in another order."""
    sent, base = sent_pair()
    shuffled = {key: sent.arrays[key] for key in reversed(sent.arrays)}
    back = decode(shuffled, "int8-delta", base=base)
    for key, value in sent.held.items():
        assert back[key].tobytes() == value.tobytes()


def test_a_slice_of_the_steps_gives_the_slice_of_the_whole() -> None:
    site, large, small = SiteSpec(1, 2), StudentSpec(alpha=0.6, beta=0.8), StudentSpec(alpha=0.6, beta=0.5)
    draw = np.random.default_rng(0)
    shapes = {key: shape for key, shape in state_shapes(large, site).items() if "tracked" not in key}
    base = {key: draw.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    state = {key: value + draw.standard_normal(value.shape).astype(np.float32) for key, value in base.items()}
    found = {key: entry for key, entry in slice_map(large, small, site).items() if entry.key in base}
    sent = encode(state, "int8-delta", base=base)
    part = take(sent.held, found)
    assert any(part[key].shape != sent.held[found[key].key].shape for key in part)
    same_bits(decode(cut(sent.arrays, found, part), "int8-delta", base=take(base, found)), part)
