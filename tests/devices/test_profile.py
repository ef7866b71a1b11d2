"""Profiles: shipped, written, found by name, and the roofline by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.devices.figures import Figure, Figures, Published
from omnifed.devices.latency import FittedNetwork, LatencyModel
from omnifed.devices.profile import SHARES, DeviceProfile, known_profiles, load_profile, measured_folder, to_toml
from omnifed.devices.work import work
from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.spec import PRESETS, StudentSpec

SITE, SIZE = SiteSpec(1, 2), (96, 96)
SHIPPED = {"coral-dev-board", "jetson-nano", "laptop-i5-10210u", "orin-nano", "raspberry-pi-4", "xavier-nx"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def figure(value: float) -> Figure:
    return Figure(value=value, evidence="published", source="data sheet")


def device(rate: float = 10, bandwidth: float = 1e6, layer_us: float = 1, value_bytes: int = 4) -> DeviceProfile:
    figures = Figures(
        memory_mib=figure(1024),
        rate_gmac_s=figure(rate),
        bandwidth_gb_s=figure(bandwidth),
        layer_us=figure(layer_us),
        overhead_ms=figure(3),
        base_mib=figure(50),
    )
    names = {"name": "toy", "title": "Toy", "kind": "cpu", "processor": "abacus", "cores": 1, "engine": "ort, fp32"}
    return DeviceProfile(**names, value_bytes=value_bytes, figures=figures)


def model() -> LatencyModel:
    return LatencyModel(
        options=StudentSpec(stem_stride=2),
        engine="ort",
        threads=1,
        size=SIZE,
        evidence="measured",
        dense_ms_per_gmac=20,
        pointwise_ms_per_gmac=20,
        depthwise_ms_per_gmac=70,
        layer_ms=0.01,
        tail=1.1,
        base_mib=50,
        weights_factor=3,
        activations_factor=2,
        networks=(FittedNetwork(key="omnisegnet/c16", p50_ms=1, predicted_ms=1.5, left_out_ms=2),),
        error=0.5,
        left_out_error=1,
        memory_error=0.02,
    )


def test_all_shipped_devices_load_and_every_figure_says_where_it_is_from() -> None:
    profiles = known_profiles()
    assert {profile.name for profile in profiles} == SHIPPED
    for profile in profiles:
        known = [figure for key in Figures.model_fields if (figure := getattr(profile.figures, key))]
        assert len(known) == 6
        assert all(f.source and f.evidence in ("published", "modelled") for f in known), profile.name
        assert profile.evidence == "modelled"
        assert all(p.source for p in profile.published)
        # No estimate from more than the device can do.
        assert profile.figures.rate_gmac_s.value <= profile.figures.peak_gmac_s.value
    assert "38 ms" in load_profile("laptop-i5-10210u").note
    assert not load_profile("laptop-i5-10210u").published


def test_the_boards_come_in_the_order_of_their_speed() -> None:
    speeds = {profile.name: profile.speed for profile in known_profiles()}
    assert speeds["raspberry-pi-4"] < speeds["laptop-i5-10210u"] < speeds["jetson-nano"] < speeds["orin-nano"]
    assert speeds["jetson-nano"] < speeds["xavier-nx"] < speeds["orin-nano"]


def test_roofline_by_hand_where_arithmetic_limits() -> None:
    asked = work(StudentSpec(), SITE, SIZE)
    want = 100 * (asked.dense.gmac + asked.pointwise.gmac / SHARES["pointwise"])
    want += 100 * asked.depthwise.gmac / SHARES["depthwise"] + asked.layers / 1000 + 3
    got = device().estimate(StudentSpec(), SITE, SIZE)
    assert got.p50_ms == pytest.approx(want)
    assert got.p95_ms == pytest.approx(1.1 * want)
    assert got.peak_mib == pytest.approx(50 + 3.7 * asked.weights_mib + 2 * asked.activations_mib)
    assert got.evidence == "modelled"


def test_roofline_by_hand_where_memory_limits() -> None:
    asked = work(StudentSpec(), SITE, SIZE)
    values = asked.dense.gvalues + asked.pointwise.gvalues + asked.depthwise.gvalues
    got = device(rate=1e6, bandwidth=2, value_bytes=2).estimate(StudentSpec(), SITE, SIZE)
    assert got.p50_ms == pytest.approx(1000 * 2 * values / 2 + asked.layers / 1000 + 3)
    assert got.peak_mib == pytest.approx(50 + (3.7 * asked.weights_mib + 2 * asked.activations_mib) / 2)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.floats(0.6, 1.5), st.floats(0.6, 1.5)),
    st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)),
    st.sampled_from(sorted(SHIPPED)),
    st.floats(1.5, 10),
)
def test_estimates_grow_with_the_network_and_shrink_with_the_device(alphas, betas, name, factor) -> None:
    profile = load_profile(name)
    small, large = (StudentSpec(alpha=choose(alphas), beta=choose(betas)) for choose in (min, max))
    few, many = profile.estimate(small, SITE, SIZE), profile.estimate(large, SITE, SIZE)
    assert 0 < few.p50_ms <= many.p50_ms <= many.p95_ms
    assert 0 < few.peak_mib <= many.peak_mib
    f = profile.figures
    faster = f.model_copy(
        update={
            "rate_gmac_s": figure(factor * f.rate_gmac_s.value),
            "bandwidth_gb_s": figure(factor * f.bandwidth_gb_s.value),
            **{key: figure(fixed.value / factor) for key in ("layer_us", "overhead_ms") if (fixed := getattr(f, key))},
        }
    )
    scaled = profile.model_copy(update={"figures": faster})
    assert scaled.estimate(large, SITE, SIZE).p50_ms == pytest.approx(many.p50_ms / factor)
    assert scaled.speed == pytest.approx(factor * profile.speed)


def test_a_fitted_model_answers_instead_of_the_figures() -> None:
    profile = device().model_copy(update={"latency": model()})
    student = StudentSpec(stem_stride=2)
    assert profile.estimate(student, SITE, SIZE) == model().predict(student, SITE, SIZE)
    assert profile.evidence == "measured"


@pytest.mark.parametrize("latency", [None, model()])
def test_what_is_written_is_read_back(tmp_path: Path, latency: LatencyModel | None) -> None:
    published = Published(network='a "b" \\ µ', size=(1, 2), engine="x", fps=3.5, source="s\nt")
    profile = device().model_copy(update={"latency": latency, "published": (published,), "note": "größer"})
    assert DeviceProfile.model_validate(tomllib.loads(to_toml(profile))) == profile
    file = tmp_path / "toy.toml"
    file.write_text(to_toml(profile))
    assert load_profile(file) == load_profile(str(file)) == profile


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_profiles_survive_writing(name: str) -> None:
    profile = load_profile(name)
    assert DeviceProfile.model_validate(tomllib.loads(to_toml(profile))) == profile


def test_a_measured_profile_is_found_by_name_and_hides_a_shipped_one() -> None:
    folder = measured_folder()
    folder.mkdir(parents=True)
    (folder / "toy.toml").write_text(to_toml(device()))
    (folder / "orin-nano.toml").write_text(to_toml(device().model_copy(update={"name": "orin-nano"})))
    assert load_profile("toy") == device()
    assert load_profile("orin-nano").title == "Toy"
    assert {profile.name for profile in known_profiles()} == SHIPPED | {"toy"}


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OmniFedError, match=r"toaster[\s\S]*coral-dev-board, jetson-nano") as caught:
        load_profile("toaster")
    assert caught.value.code == "OF710"


def test_a_file_that_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError) as caught:
        load_profile(tmp_path / "none.toml")
    assert caught.value.code == "OF101"
    text = to_toml(device())
    for broken in (
        text.replace('source = "data sheet"', 'source = ""', 1),
        text.replace("[figures.base_mib]", "[figures.x]"),
    ):
        (tmp_path / "bad.toml").write_text(broken)
        with pytest.raises(OmniFedError) as caught:
            load_profile(tmp_path / "bad.toml")
        assert caught.value.code == "OF102"


def test_the_law_of_the_orin_nano_is_that_of_its_published_networks() -> None:
    profile = load_profile("orin-nano")
    for network in profile.published:
        if not network.note:
            law = profile.figures.overhead_ms.value + 1000 * network.gmac / profile.figures.rate_gmac_s.value
            assert law == pytest.approx(network.ms, rel=0.03)


def test_a_profile_with_too_few_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="needs rate_gmac_s, bandwidth_gb_s and base_mib"):
        DeviceProfile.model_validate(device().model_dump() | {"figures": {"memory_mib": figure(1).model_dump()}})


def test_a_published_figure_is_a_latency_or_a_throughput() -> None:
    with pytest.raises(ValueError, match=r"ms .* or fps"):
        Published(network="n", size=(1, 1), engine="e", source="s", ms=1, fps=2)
    with pytest.raises(ValueError, match=r"ms .* or fps"):
        Published(network="n", size=(1, 1), engine="e", source="s")


def test_paper_variants_keep_their_order_everywhere() -> None:
    for profile in known_profiles():
        times = [profile.estimate(StudentSpec(alpha=a, beta=b), SITE, (256, 256)).p95_ms for a, b in PRESETS.values()]
        assert times == sorted(times)
