"""The latency model on devices whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.devices.fitting import fit_relative
from omnifed.devices.latency import (
    DESIGN,
    MEMORY_PATTERN,
    TIME_PATTERN,
    LatencyModel,
    fit_latency,
    memory_row,
    probes,
    time_row,
)
from omnifed.devices.measurement import Measurement
from omnifed.devices.work import work
from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec

SITE, SIZE = SiteSpec(1, 2), (96, 96)
OPTIONS = StudentSpec(stem_stride=2)
OTHERS = tuple(
    OPTIONS.model_copy(update={"alpha": a, "beta": b}) for a in (0.7, 0.9, 1.2) for b in (0.6, 0.8, 1.3, 1.8)
)


def measurement(student: StudentSpec, time=TIME_PATTERN, memory=MEMORY_PATTERN, **other: object) -> Measurement:
    asked = work(student, SITE, SIZE)
    p50, peak = float(time_row(asked) @ time), float(memory_row(asked) @ memory)
    key = architecture_key(student)
    values = {"network": key, "size": SIZE, "warmups": 10, "runs": 50, "p50_ms": p50, "p95_ms": 1.25 * p50}
    return Measurement(**values | {"cpu_ms": p50, "variation": 0.01, "load_ms": 1, "peak_mib": peak} | other)


def fitted(**laws: np.ndarray) -> LatencyModel:
    return fit_latency([(student, measurement(student, **laws)) for student in probes(OPTIONS)], SITE)


def test_a_device_at_twice_the_time_of_the_reference_is_recovered_exactly() -> None:
    model = fitted(time=2 * TIME_PATTERN)
    got = model.dense_ms_per_gmac, model.pointwise_ms_per_gmac, model.depthwise_ms_per_gmac, model.layer_ms
    assert got == pytest.approx(tuple(2 * TIME_PATTERN))
    assert (model.base_mib, model.weights_factor, model.activations_factor) == pytest.approx(tuple(MEMORY_PATTERN))
    assert model.tail == pytest.approx(1.25)
    assert model.error == pytest.approx(0, abs=1e-9)
    assert model.left_out_error == pytest.approx(0, abs=1e-9)
    estimate = model.predict(OTHERS[0], SITE, SIZE)
    truth = measurement(OTHERS[0], time=2 * TIME_PATTERN)
    assert (estimate.p50_ms, estimate.p95_ms, estimate.peak_mib, estimate.evidence) == (
        pytest.approx(truth.p50_ms),
        pytest.approx(truth.p95_ms),
        pytest.approx(truth.peak_mib),
        "measured",
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=4), st.lists(st.floats(0.5, 2.0), min_size=3, max_size=3))
def test_networks_that_were_not_measured_are_predicted_on_devices_of_other_proportions(time, memory) -> None:
    laws = {"time": TIME_PATTERN * time, "memory": MEMORY_PATTERN * memory}
    model = fitted(**laws)
    for student in OTHERS:
        truth, got = measurement(student, **laws), model.predict(student, SITE, SIZE)
        assert got.p50_ms == pytest.approx(truth.p50_ms, rel=0.03)
        assert got.peak_mib == pytest.approx(truth.peak_mib, rel=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_of_five_percent_in_ten_measurements_becomes_less_in_the_prediction(seed) -> None:
    noise = np.exp(0.05 * np.random.default_rng([seed]).standard_normal(len(DESIGN)))
    pairs = [
        (student, measurement(student, time=factor * TIME_PATTERN))
        for student, factor in zip(probes(OPTIONS), noise, strict=True)
    ]
    model = fit_latency(pairs, SITE)
    errors = [model.predict(s, SITE, SIZE).p50_ms / measurement(s).p50_ms - 1 for s in OTHERS]
    assert np.abs(errors).mean() < 0.08


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.floats(0.6, 1.5), st.floats(0.6, 1.5)),
    st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)),
    st.sampled_from(((0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (1, 1, 1, 1))),
)
def test_a_wider_and_deeper_network_is_never_predicted_faster_or_smaller(alphas, betas, law) -> None:
    model = fitted(time=TIME_PATTERN * law)
    small = OPTIONS.model_copy(update={"alpha": min(alphas), "beta": min(betas)})
    large = OPTIONS.model_copy(update={"alpha": max(alphas), "beta": max(betas)})
    few, many = model.predict(small, SITE, SIZE), model.predict(large, SITE, SIZE)
    assert 0 < few.p50_ms <= many.p50_ms
    assert few.p95_ms <= many.p95_ms
    assert 0 < few.peak_mib <= many.peak_mib


def test_other_sizes_and_options_are_modelled_and_emulated_measurements_too() -> None:
    model = fitted()
    assert model.predict(OPTIONS, SITE, (128, 128)).evidence == "modelled"
    assert model.predict(StudentSpec(stem_stride=1), SITE, SIZE).evidence == "modelled"
    emulated = [(s, measurement(s, evidence="modelled")) for s in probes(OPTIONS)]
    assert fit_latency(emulated, SITE).predict(OPTIONS, SITE, SIZE).evidence == "modelled"


def test_fit_of_one_coefficient_by_hand() -> None:
    # (0.5 c - 1)^2 + (c - 1)^2 is least at c = 1.5 / 1.25; the pattern, at its best speed, says the same.
    rows, seen = np.array([[1.0], [1.0]]), np.array([2.0, 1.0])
    assert fit_relative(rows, seen, np.array([7.0])) == pytest.approx([1.2])


def test_coefficients_are_never_negative() -> None:
    rows = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    got = fit_relative(rows, np.array([9.0, 6.0, 3.0]), np.array([1.0, 1.0]))  # 12 - 3 x without the bound
    assert got[1] == 0
    assert got[0] > 0


def test_probes_are_distinct_and_span_the_family() -> None:
    found = probes(OPTIONS)
    assert len(found) == len({architecture_key(student) for student in found}) == 10
    assert {(s.alpha, s.beta) for s in probes(OPTIONS, 5)} == {(0.6, 0.5), (1.5, 2), (0.6, 2), (1.5, 0.5), (1, 1)}
    assert {student.stem_stride for student in found} == {2}
    with pytest.raises(ValueError, match=r"5\.\.10"):
        probes(OPTIONS, 11)


@pytest.mark.parametrize("unlike", [{"threads": 2}, {"size": (128, 128)}, {"engine": "openvino"}])
def test_unlike_measurements_are_refused(unlike) -> None:
    pairs = [(s, measurement(s)) for s in probes(OPTIONS)]
    pairs[3] = (pairs[3][0], measurement(pairs[3][0], **unlike))
    with pytest.raises(OmniFedError, match="10 networks, 2 kinds") as caught:
        fit_latency(pairs, SITE)
    assert caught.value.code == "OF711"


def test_too_few_networks_are_refused_however_often_they_were_measured() -> None:
    pairs = [(s, measurement(s)) for s in probes(OPTIONS)[:4]] * 3
    with pytest.raises(OmniFedError, match="4 networks") as caught:
        fit_latency(pairs, SITE)
    assert caught.value.code == "OF711"
