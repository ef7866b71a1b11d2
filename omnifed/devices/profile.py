"""Device profiles: what is known of a device, and what a student will cost there. Needs no torch.

A profile without a latency model estimates by a roofline (Williams et al., CACM 2009)::

    p50 = fixed time + sum over kinds of max(GMAC / (rate x share), values x bytes / bandwidth)

over the kinds dense, pointwise and depthwise, with the shares that were measured on the reference device
(:data:`omnifed.devices.latency.TIME_PATTERN`). It says which device is about how much faster; budgets should rest on
measurements (``omnifed devices measure``).
"""

from __future__ import annotations

import json
import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from omnifed.config import Frozen, load_toml
from omnifed.devices.figures import Figures, Published
from omnifed.devices.latency import MEMORY_PATTERN, TIME_PATTERN, LatencyModel, memory_row, time_row
from omnifed.devices.measurement import Estimate, Evidence
from omnifed.devices.work import FLOAT_BYTES, KINDS, work
from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec

SUFFIX = ".toml"
SHARES = dict(zip(KINDS, (TIME_PATTERN[0] / TIME_PATTERN[:3]).tolist(), strict=True))
"""Rate of each kind of layer relative to dense 3x3 convolutions, on the reference device."""
MODELLED_TAIL = 1.1
"""p95 / p50 of a modelled estimate: an idle machine shows 1.02 to 1.15."""
SPEED_SIZE = (256, 256)
"""Image size of the balanced student by which :attr:`DeviceProfile.speed` compares devices."""


class DeviceProfile(Frozen):
    """A device.

    Attributes:
        name: by which it is asked for; the file's name.
        title: for people.
        kind: what computes.
        processor: its name.
        cores: CPU cores.
        threads: of one inference; 1 where the device decides itself.
        engine: which runtime the figures hold for, and its precision.
        value_bytes: bytes of a number at that precision.
        note: what a reader must know.
        figures: see :class:`Figures`.
        published: see :class:`Published`.
        latency: fitted on measurements there; it then answers instead of the figures.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")
    title: str
    kind: Literal["cpu", "gpu", "tpu"]
    processor: str
    cores: int = Field(ge=1)
    threads: int = Field(1, ge=1)
    engine: str
    value_bytes: Literal[1, 2, 4] = 4
    note: str = ""
    figures: Figures
    published: tuple[Published, ...] = ()
    latency: LatencyModel | None = None

    @model_validator(mode="after")
    def _answers(self) -> DeviceProfile:
        if self.latency is None and len(self.figures.roofline) < 3:
            raise ValueError("a profile without latency needs rate_gmac_s, bandwidth_gb_s and base_mib")
        return self

    @property
    def memory_mib(self) -> float:
        """Memory of the machine."""
        return self.figures.memory_mib.value

    @property
    def evidence(self) -> Evidence:
        """Where its estimates are from."""
        return self.latency.evidence if self.latency else "modelled"

    @property
    def speed(self) -> float:
        """How much faster it is than one thread of the reference device: balanced student, 256 x 256."""
        site = SiteSpec(3, 2)
        reference = TIME_PATTERN @ time_row(work(StudentSpec(), site, SPEED_SIZE))
        return float(reference) / self.estimate(StudentSpec(), site, SPEED_SIZE).p50_ms

    def estimate(self, student: StudentSpec, site: SiteSpec, size: tuple[int, int]) -> Estimate:
        """What a student is expected to cost here, one image at a time.

        Args:
            student: the network.
            site: its channels and classes.
            size: height and width of the image in pixels.

        Raises:
            OmniFedError: OF303 for a size that the student does not take.
        """
        if self.latency:
            return self.latency.predict(student, site, size)
        return self._roofline(student, site, size)

    def _roofline(self, student: StudentSpec, site: SiteSpec, size: tuple[int, int]) -> Estimate:
        rate, bandwidth, base_mib = self.figures.roofline
        asked = work(student, site, size)
        p50 = self.figures.fixed_ms(asked.layers)
        for kind, part in zip(KINDS, (asked.dense, asked.pointwise, asked.depthwise), strict=True):
            arithmetic = part.gmac / (rate * SHARES[kind])
            p50 += 1e3 * max(arithmetic, part.gvalues * self.value_bytes / bandwidth)
        factor = self.value_bytes / FLOAT_BYTES
        peak = base_mib + factor * float(MEMORY_PATTERN[1:] @ memory_row(asked)[1:])
        return Estimate(p50_ms=p50, p95_ms=p50 * MODELLED_TAIL, peak_mib=peak, evidence="modelled")


def load_profile(name: str | Path) -> DeviceProfile:
    """A profile by name or file.

    Args:
        name: a shipped or a measured device's name, or a path that ends in ``.toml``.

    Raises:
        OmniFedError: OF710 for an unknown name; OF101, OF102 for a file that is no profile.
    """
    if str(name).endswith(SUFFIX):
        return load_toml(DeviceProfile, Path(name))
    known = _known()
    if str(name) not in known:
        raise OmniFedError(
            "OF710",
            "A device is named by its profile: one that OmniFed ships, one that was measured here, or a TOML file.",
            seen=str(name),
            remedy=f"Use one of {', '.join(sorted(known))}; or measure it: omnifed devices measure --name NAME.",
        )
    return load_toml(DeviceProfile, known[str(name)])


def known_profiles() -> tuple[DeviceProfile, ...]:
    """All shipped and measured profiles by name; a measured one hides a shipped one of its name."""
    return tuple(load_profile(name) for name in sorted(_known()))


def measured_folder() -> Path:
    """Where this user's measured profiles are: ``$XDG_CONFIG_HOME/omnifed/devices``, usually below ``~/.config``."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "omnifed" / "devices"


def to_toml(profile: DeviceProfile) -> str:
    """The text of a profile's file."""
    return "\n".join(_table(profile.model_dump(mode="json", exclude_none=True), "")).lstrip("\n") + "\n"


def _known() -> dict[str, Path]:
    shipped = files("omnifed.devices") / "profiles"
    return _by_name(shipped) | (_by_name(measured_folder()) if measured_folder().is_dir() else {})


def _by_name(folder: Traversable) -> dict[str, Path]:
    return {part.name.removesuffix(SUFFIX): Path(str(part)) for part in folder.iterdir() if part.name.endswith(SUFFIX)}


def _table(values: dict[str, Any], path: str) -> list[str]:
    """Plain values first, then tables, then arrays of tables: TOML has no way back to the outer table."""
    inner = {key: value for key, value in values.items() if isinstance(value, dict)}
    arrays = {key: value for key, value in values.items() if _of_tables(value)}
    plain = {key: value for key, value in values.items() if key not in inner and key not in arrays}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for key, table in inner.items():
        lines += ["", f"[{path}{key}]", *_table(table, f"{path}{key}.")]
    for key, tables in arrays.items():
        for table in tables:
            lines += ["", f"[[{path}{key}]]", *_table(table, f"{path}{key}.")]
    return lines


def _of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
