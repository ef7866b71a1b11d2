"""Energy counters of the machine: Intel's and AMD's RAPL, or a laptop's battery. Both see the whole machine."""

from __future__ import annotations

import time
from pathlib import Path

SYS = Path("/sys")


class EnergyMeter:
    """Energy since it was made.

    RAPL's package domains count microjoules and wrap around at ``max_energy_range_uj``; they are readable for root
    only on most systems. A battery tells its power, in watts or as current times voltage, while it discharges; the
    mean of the readings times the time is its energy.

    Args:
        sys: where the kernel's sysfs lies.
    """

    def __init__(self, sys: Path = SYS) -> None:
        self._sys = sys
        self._packages = [
            domain
            for domain in sorted((sys / "class" / "powercap").glob("intel-rapl:*"))
            if _text(domain / "name").startswith("package") and _number(domain / "energy_uj") is not None
        ]
        self._last = [_number(domain / "energy_uj") for domain in self._packages]
        self._counted = 0
        self._start = time.monotonic()
        self._watts: list[float] = []
        self.sample()

    def sample(self) -> None:
        """Reads the counters: once a second is enough for a battery, once a minute for RAPL, which wraps around."""
        if not self._packages:
            self._watts += [power] if (power := battery_watts(self._sys)) is not None else []
        for i, domain in enumerate(self._packages):
            now, last = _number(domain / "energy_uj"), self._last[i]
            if now is not None and last is not None:
                self._counted += now - last if now >= last else now - last + _range(domain)
                self._last[i] = now

    def millijoules(self) -> float | None:
        """Energy up to now in mJ; None where nothing is readable, or the counter stood still."""
        self.sample()
        if self._packages:
            return self._counted / 1000 or None
        if not self._watts:
            return None
        return 1000 * sum(self._watts) / len(self._watts) * (time.monotonic() - self._start)


def battery_watts(sys: Path = SYS) -> float | None:
    """Power that the batteries deliver in W; None where there is none or none discharges.

    Args:
        sys: where the kernel's sysfs lies.
    """
    powers = []
    for battery in sorted((sys / "class" / "power_supply").glob("BAT*")):
        if _text(battery / "status") != "Discharging":
            continue
        power, current, voltage = (_number(battery / f"{name}_now") for name in ("power", "current", "voltage"))
        if power is not None:
            powers.append(abs(power) / 1e6)
        elif current is not None and voltage is not None:
            powers.append(abs(current) / 1e6 * voltage / 1e6)
    return sum(powers) or None


def _range(domain: Path) -> int:
    """At this count a domain begins at zero again; 2^32 microjoules where the kernel does not say."""
    return _number(domain / "max_energy_range_uj") or 2**32


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
