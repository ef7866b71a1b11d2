"""From a command line's words to settings: names, devices, and a TOML file that options win over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.models.spec import PRESETS


def names(text: str | None) -> tuple[str, ...] | None:
    """Names from a list with commas."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def target(text: str) -> dict[str, Any]:
    """A target from ``PROFILE``, ``PROFILE=MS`` or ``PROFILE=VARIANT``.

    Raises:
        OmniFedError: OF768 for anything else.
    """
    profile, equals, limit = text.partition("=")
    name = Path(profile).stem if profile.endswith(".toml") else profile
    values: dict[str, Any] = {"name": name, "profile": profile}
    if limit in PRESETS:
        return {**values, "name": f"{name}-{limit}", "as_fast_as": limit}
    try:
        values["latency_ms"] = float(limit) if equals else 0.0
    except ValueError:
        values["latency_ms"] = -1.0
    if not profile or not (values["latency_ms"] > 0 or not equals) or values["latency_ms"] == float("inf"):
        raise OmniFedError(
            "OF768",
            "A device is PROFILE, PROFILE=MILLISECONDS or PROFILE=VARIANT.",
            seen=repr(text),
            remedy="Use for example --device raspberry-pi-4=250; `omnifed devices list` names the profiles.",
        )
    return values


def settings(file: Path | None, given: dict[str, Any]) -> Any:
    """The configuration from a TOML file and the options that were given; options win.

    Raises:
        OmniFedError: OF101 or OF102 for a bad file or value, OF301 for an unknown student, OF710 for an unknown
            device.
    """
    import tomllib

    from omnifed.config import load_toml, parse
    from omnifed.models.spec import StudentSpec
    from omnifed.search.spec import check_devices
    from omnifed_sim.config import SimConfig

    values: dict[str, Any] = {}
    if file is not None:
        load_toml(SimConfig, file)  # checks the file by itself, so that errors name its keys
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    given = dict(given)
    if "student" in given:
        values["student"] = StudentSpec.parse(given.pop("student")).model_dump()
    teacher = {"kind": given.pop("teacher", None), "checkpoint": given.pop("checkpoint", None)}
    steps = given.pop("teacher_steps", None)
    if any(value is not None for value in (*teacher.values(), steps)):
        base = SimConfig.model_validate(values).teacher.model_dump()
        base |= {key: value for key, value in teacher.items() if value is not None}
        values["teacher"] = {**base, "train": {**base["train"], **({"steps": steps} if steps else {})}}
    for name in ("architecture", "weights"):
        if name in given:
            given[name] = {**values.get(name, {}), **given[name]}
    if "deadline" in given:
        given["deadline_s"] = given.pop("deadline")
    if "epsilon" in given:
        given["dp"] = {**(values.get("dp") or {}), "epsilon": given.pop("epsilon")}
    config = parse(SimConfig, {**values, **given}, "the options")
    if "architecture" in config.search:
        check_devices(config.architecture)
    return config
