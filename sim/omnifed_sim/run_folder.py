"""A run folder: made, or opened to go on. Torch is loaded for a new one only, once all else was found right."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import omnifed
from omnifed.config import parse
from omnifed.errors import OmniFedError
from omnifed.files import write_json
from omnifed_sim.config import SimConfig
from omnifed_sim.machine import processor

ABOUT = ("versions", "precision", "machine")
"""Keys of config.json that describe the run beside its configuration."""


def open_run(folder: Path, config: SimConfig | None, *, resume: bool = False, overwrite: bool = False) -> SimConfig:
    """Makes a run folder, or opens the one to resume.

    Args:
        folder: RUN.
        config: what to run; None with ``resume`` takes the folder's own.
        resume: go on with the run that the folder holds.
        overwrite: delete that run first.

    Raises:
        OmniFedError: OF120 if the folder holds a run already, OF121 if there is nothing to resume, OF122 if the two
            differ; what :func:`~omnifed_sim.sites.check_sites` and the emulation's file are refused for.
    """
    file = folder / "config.json"
    if resume:
        if not file.is_file():
            raise OmniFedError(
                "OF121", "Only a run folder with config.json can be resumed.", seen=str(folder), remedy="Check --out."
            )
        written = json.loads(file.read_text())
        stored = parse(SimConfig, {key: written[key] for key in written if key not in ABOUT}, str(file))
        if config is not None and config.lasting() != stored.lasting():
            new, old = config.lasting(), stored.lasting()
            raise OmniFedError(
                "OF122",
                "A resumed run keeps its configuration.",
                seen=", ".join(f"{key}: {new[key]!r}, stored {old[key]!r}" for key in new if new[key] != old[key]),
                remedy="Leave the options out, or start a new run with another --out.",
            )
        if config is not None and config != stored:  # a search's budget has grown
            write_json(file, {**written, **config.model_dump(mode="json")})
        return config or stored
    if file.is_file() and not overwrite:
        raise OmniFedError(
            "OF120",
            "A run folder is never overwritten by accident.",
            seen=str(folder),
            remedy="Use --resume, --overwrite or another --out.",
        )
    config = config or SimConfig()
    _check(config)
    if file.is_file():
        shutil.rmtree(folder)
    write_json(file, {**config.model_dump(mode="json"), **_about()})
    return config


# Both import what they need when they run: torch, SciPy and pydicom take seconds, and most refusals need none of them.
def _check(config: SimConfig) -> None:
    from omnifed_sim import emulation
    from omnifed_sim.sites import check_sites

    check_sites(config)
    if config.emulate:
        emulation.VirtualClock(emulation.load(Path(config.emulate)))


def _about() -> dict[str, Any]:
    import torch

    from omnifed.training.precision import choose

    return {
        "versions": {"omnifed": omnifed.__version__, "torch": torch.__version__, "python": platform.python_version()},
        # Measured once and kept: a resumed run that measured something else would end in other weights.
        "precision": choose("auto", torch.device("cpu")).dtype,
        "machine": {"system": platform.platform(), "processor": processor(), "threads": torch.get_num_threads()},
    }
