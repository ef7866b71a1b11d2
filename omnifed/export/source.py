"""Where a student and its site's data lie: a run folder, a client's state folder, or a checkpoint.

Read by the files' documented formats: nothing of the client or the simulation is imported, and nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from omnifed.data.site import SITE_TOML
from omnifed.data.site_folder import Site, load_site
from omnifed.errors import OmniFedError
from omnifed.export.card import KEY
from omnifed.export.session import read_card, read_model
from omnifed.export.wire import metadata
from omnifed.models.slices import covering
from omnifed.models.spec import StudentSpec
from omnifed.search.results import ArchitectureResult
from omnifed.states import SEALED, State, read_arrays, read_state, site_file, strip_prefix
from omnifed.trust.manifest import Origin, origin_of

CENTRAL = "central"
"""The arm of a simulation that trains one student for all sites."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        state: the student's weights by key.
        student: its spec.
        site: the folder of the site that it serves.
        image_size: as it was trained; None for the site's own.
        cache: where the site's prepared images lie already; None for a checkpoint.
        identity: folder of the site's identity, which signs; None where it has joined no federation.
        origin: which training it is from.
    """

    state: State
    student: StudentSpec
    site: Site
    image_size: tuple[int, int] | None = None
    cache: Path | None = None
    identity: Path | None = None
    origin: Origin = field(default_factory=Origin)


def find_source(path: Path, *, data: Path | None = None, site: str = "", arm: str = "", student: str = "") -> Source:
    """Finds the student that a site would deploy, and the site's data.

    Args:
        path: run folder of omnifed-sim, state folder of omnifed-client, or a safetensors file.
        data: the site's folder; a run knows it.
        site: name of a site in a run, needed where it has several.
        arm: needed where several were trained; ``CAMPAIGN/ARM`` where several campaigns have one of that name.
        student: FAMILY:PRESET,...; a run knows it, and so does a state folder whose model was exported before.

    Raises:
        OmniFedError: OF610 if nothing that was trained is there, OF611 if arm or site must be named, OF612 if the
            student or the data must be; OF104 for a damaged file, OF875 for a sealed one that does not open; what is
            wrong with the site folder.
    """
    if path.is_file():
        return _checkpoint(path, data, student)
    if (path / "config.json").is_file() and (path / "sites").is_dir():
        return _run(path, data, site, arm, student)
    if (path / "campaigns").is_dir():
        return _state_folder(path, data, arm, student)
    raise _nothing(f"{path} is " + ("none of them" if path.exists() else "not there"))


def _checkpoint(path: Path, data: Path | None, student: str) -> Source:
    _need(student=student, data=data)
    assert data is not None
    return Source(weights_of(path), StudentSpec.parse(student), load_site(data))


def _run(run: Path, data: Path | None, site: str, arm: str, student: str) -> Source:
    try:
        config = json.loads((run / "config.json").read_text())
        own = StudentSpec.model_validate(config["student"])
        size = int(config["image_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _nothing(f"config.json: {str(error)[:200]}") from None
    found: dict[tuple[str, str], Path] = {}
    for folder in sorted((run / "sites").iterdir()):
        for name, path in _arms(folder / "state").items():
            found[name, folder.name] = path
    for path in sorted((run / "arms" / CENTRAL).glob("*.safetensors")):
        found[CENTRAL, path.stem] = path
    (arm, site), path = _one(found, arm, site)
    students = _searched(run)
    spec = covering([students.get(name, own) for _, name in found]) if arm == CENTRAL else students.get(site, own)
    return Source(
        weights_of(path),
        StudentSpec.parse(student) if student else spec,
        load_site(data) if data else _site_of_run(run, config, site),
        (size, size) if size else None,
        run / "sites" / site / "data",
    )


def _state_folder(state: Path, data: Path | None, arm: str, student: str) -> Source:
    found = {(name, ""): path for name, path in _arms(state).items()}
    (arm, _), path = _one(found, arm, "")
    folder = path.parent.parent.parent  # campaigns/NAME/arms/ARM/FILE
    model = folder / "models" / path.parent.name / "model.onnx"
    card = read_card(metadata(read_model(model)).get(KEY, "")) if model.is_file() else None
    spec = StudentSpec.parse(student) if student else card.student if card else None
    _need(student=spec, data=data)
    assert spec is not None
    assert data is not None
    identity = state / "identity"
    return Source(
        weights_of(path),
        spec,
        load_site(data),
        card.image_size if card else None,
        state / "prepared",
        identity if (identity / "kit.json").is_file() else None,
        origin_of(path.parent),
    )


def _arms(state: Path) -> dict[str, Path]:
    """Arm to the file of the model that the site would deploy; ``CAMPAIGN/ARM`` where a name occurs twice."""
    found: dict[str, list[Path]] = {}
    for folder in sorted(state.glob("campaigns/*/arms/*")):
        path = _adopted(folder)
        if path:
            found.setdefault(folder.name, []).append(path)
    arms = {}
    for arm, paths in found.items():
        for path in paths:
            campaign = path.parent.parent.parent.name
            arms[arm if len(paths) == 1 else f"{campaign}/{arm}"] = path
    return arms


def _adopted(arm: Path) -> Path | None:
    """The gate's last choice: ``final``, else what the newest round refers to."""
    # Sealed, or in clear as earlier releases left it.
    ending = SEALED if any(arm.glob(f"*{SEALED}")) else ".safetensors"
    if (arm / f"final{ending}").is_file():
        return arm / f"final{ending}"
    rounds = sorted(arm.glob(f"round-*{ending}"))
    if not rounds:
        return None
    number = _read(rounds[-1])[1].get("adopted_round", -1)
    path = arm / f"adopted-{number:04d}{ending}"
    return path if path.is_file() else None


def _one(found: dict[tuple[str, str], Path], arm: str, site: str) -> tuple[tuple[str, str], Path]:
    left = {key: path for key, path in found.items() if arm in ("", key[0]) and site in ("", key[1])}
    if len(left) == 1:
        return next(iter(left.items()))
    if not found:
        raise _nothing("no arm has adopted a model yet")
    arms, sites = (", ".join(sorted({key[i] for key in found} - {""})) for i in (0, 1))
    asked = ", ".join(text for text in (arm and f"arm {arm}", site and f"site {site}") if text)
    raise OmniFedError(
        "OF611",
        "One model is exported at a time: arm and site must name it.",
        seen=f"arms {arms}" + (f"; sites {sites}" if sites else "") + (f"; asked for {asked}" if asked else ""),
        remedy="Name one with --arm" + (" and --site." if sites else "."),
    )


def weights_of(path: Path) -> State:
    """Weights of a file of the framework, sealed in a state folder or in clear, or of plain safetensors.

    Raises:
        OmniFedError: OF104 if the file is damaged, OF875 if it is sealed and its vault key is absent or another.
    """
    state = _read(path)[0] if path.suffix == SEALED else read_arrays(path)[0]
    return strip_prefix("model", state) or {key: np.asarray(value) for key, value in state.items()}


def _read(path: Path) -> tuple[State, dict[str, Any]]:
    if path.suffix != SEALED:
        return read_state(path)
    path = path.absolute()
    keys = (folder / "identity" / "vault.key" for folder in path.parents)
    key = next((key for key in keys if key.is_file()), None)
    folder = key.parent.parent if key else path.parent
    return site_file(folder, path, key.read_bytes() if key else b"").read()


def _searched(run: Path) -> dict[str, StudentSpec]:
    """By site, what an architecture search chose."""
    path = run / "search" / "architecture.json"
    if not path.is_file():
        return {}
    try:
        result = ArchitectureResult.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise _nothing(f"search/architecture.json: {str(error)[:200]}") from None
    students = {network.key: network.student for network in result.networks}
    return {site: students[device.chosen] for device in result.devices for site in device.sites}


def _site_of_run(run: Path, config: dict[str, Any], name: str) -> Site:
    """The site's folder: made in the run, cut there from a real one, or where the configuration says."""
    roots = [run / "phantoms", run / "split"]
    if config.get("data"):
        roots.append(Path(config["data"]).expanduser())
    for root in roots:
        for folder in (root, *sorted(root.iterdir())) if root.is_dir() else ():
            if any((folder / file).is_file() for file in (SITE_TOML, "index.csv")):
                site = load_site(folder)
                if site.config.name == name:
                    return site
    raise _missing(f"the data of site {name} are no longer where the run found them", ["--data SITE_FOLDER"])


def _need(**options: object) -> None:
    missing = [
        f"--{name} {'FAMILY:PRESET' if name == 'student' else 'SITE_FOLDER'}"
        for name, value in options.items()
        if not value
    ]
    if missing:
        raise _missing("not named: " + ", ".join(text.split()[0].strip("-") for text in missing), missing)


def _missing(seen: str, options: list[str]) -> OmniFedError:
    return OmniFedError(
        "OF612",
        "An export needs the weights, the student's specification and the site's folder.",
        seen=seen,
        remedy=f"Give {' and '.join(options)}.",
    )


def _nothing(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF610",
        "An export begins from a run folder of omnifed-sim, a state folder of omnifed-client, or a safetensors file.",
        seen=seen,
        remedy="Check the path; a run or a client must have ended at least one round.",
    )
