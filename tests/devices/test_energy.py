"""Energy from small folders that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.devices.energy import EnergyMeter, battery_watts


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def rapl(sys: Path, domain: str = "intel-rapl:0", **files: object) -> Path:
    return write(sys / "class/powercap" / domain, **files)


def battery(sys: Path, name: str = "BAT0", **files: object) -> Path:
    return write(sys / "class/power_supply" / name, **files)


def test_packages_are_summed_and_their_parts_left_out(tmp_path: Path) -> None:
    first = rapl(tmp_path, name="package-0", energy_uj=5_000, max_energy_range_uj=9_999)
    second = rapl(tmp_path, "intel-rapl:1", name="package-1", energy_uj=100, max_energy_range_uj=9_999)
    core = rapl(tmp_path, "intel-rapl:0:0", name="core", energy_uj=0)
    again = rapl(tmp_path, "intel-rapl-mmio:0", name="package-0", energy_uj=5_000)
    whole = rapl(tmp_path, "intel-rapl:2", name="psys", energy_uj=0)
    meter = EnergyMeter(tmp_path)
    for folder, value in ((first, 7_000), (second, 600), (core, 900), (again, 7_000), (whole, 900)):
        write(folder, energy_uj=value)
    assert meter.millijoules() == 2.5


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=8), st.integers(0, 999), st.booleans())
def test_a_counter_that_wraps_around_counts_on(tmp_path_factory, steps: list[int], start: int, whole: bool) -> None:
    # Steps below the range; the kernel's counter is modulo its range.
    sys = tmp_path_factory.mktemp("sys")
    domain = rapl(sys, name="package-0", energy_uj=start, max_energy_range_uj=1_001)
    meter = EnergyMeter(sys)
    for i in range(len(steps)):
        write(domain, energy_uj=(start + sum(steps[: i + 1])) % 1_001)
        meter.sample()
    assert (meter.millijoules() or 0) == pytest.approx(sum(steps) / 1000)


def test_a_counter_that_stands_still_is_none(tmp_path: Path) -> None:
    rapl(tmp_path, name="package-0", energy_uj=7)
    assert EnergyMeter(tmp_path).millijoules() is None


def test_nothing_readable_is_none(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).millijoules() is None
    rapl(tmp_path, name="package-0")
    battery(tmp_path, status="Discharging")
    assert EnergyMeter(tmp_path).millijoules() is None


def test_a_battery_tells_its_power_only_while_it_discharges(tmp_path: Path) -> None:
    folder = battery(tmp_path, status="Charging", power_now=9_000_000)
    assert battery_watts(tmp_path) is None
    write(folder, status="Discharging")
    assert battery_watts(tmp_path) == 9.0
    battery(tmp_path, "BAT1", status="Discharging", current_now=-500_000, voltage_now=12_000_000)
    assert battery_watts(tmp_path) == 15.0


def test_a_battery_gives_mean_power_times_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("omnifed.devices.energy.time.monotonic", lambda: next(clock))
    folder = battery(tmp_path, status="Discharging", power_now=6_000_000)
    meter = EnergyMeter(tmp_path)
    write(folder, power_now=8_000_000)
    assert meter.millijoules() == 14_000.0
