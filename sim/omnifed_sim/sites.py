"""Which sites a simulation runs on: phantom presets, folders of real images, or one real site cut into hospitals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omnifed.data.prepare import SiteData, prepare
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError
from omnifed.privacy.rules import check_promises
from omnifed.progress import Progress
from omnifed_sim.config import SimConfig
from omnifed_sim.phantoms import write_preset
from omnifed_sim.phantoms.plans import PRESETS
from omnifed_sim.splitting import split_site


def check_sites(config: SimConfig) -> None:
    """Refuses sites that are not there, before anything is made; the hospitals of a cut site are not known yet.

    Raises:
        OmniFedError: OF111 for an absent data folder, OF112 for an unknown site, OF113 if no site is left, OF102 if
            they are too few for what is promised.
    """
    found = _real(config) if config.data else {plan.name: Path(plan.name) for plan in PRESETS[config.preset]}
    if config.split:
        _known([config.split.partition(":")[0]], found)
    else:
        check_promises_with(config, sum(folder.name not in config.hold_out for folder in _choose(config, found)))


def check_promises_with(config: SimConfig, sites: int) -> None:
    """Refuses what a run with so many sites that train cannot keep.

    Raises:
        OmniFedError: OF102.
    """
    try:
        check_promises(
            config.aggregation,
            config.dp,
            sites=sites,
            wire=config.wire,
            student=config.student,
            teacher=config.teacher,
            arms=config.arms,
            searches=bool(config.search),
        )
    except ValueError as error:
        raise OmniFedError(
            "OF102",
            "The configuration must match its schema; unknown keys are refused.",
            seen=f"the options: {error}",
            remedy="Correct or remove the named keys.",
        ) from None


def site_folders(config: SimConfig, out: Path, progress: Progress | None = None) -> list[Path]:
    """Folders of the sites that take part, written below ``out`` where they have to be made.

    Raises:
        OmniFedError: OF111 for an absent data folder, OF112 for an unknown site, OF113 if no site is left.
    """
    if not config.data:
        size = config.image_size or 128
        made = write_preset(
            config.preset,
            out / "phantoms",
            seed=config.seed,
            image_size=size,
            scale=config.phantom_scale,
            progress=progress,
        )
        return _choose(config, {folder.name: folder for folder in made})
    return _choose(config, _cut(config, _real(config), out))


def _real(config: SimConfig) -> dict[str, Path]:
    root = Path(config.data).expanduser()
    if not root.is_dir():
        raise OmniFedError(
            "OF111",
            "The data folder must exist.",
            seen=str(root),
            remedy="Give --data the folder whose sub-folders are sites.",
        )
    found = {p.name: p for p in sorted(root.iterdir()) if (p / "site.toml").is_file() or (p / "index.csv").is_file()}
    if not found and (root / "index.csv").is_file():
        found = {root.name: root}
    return found


def _cut(config: SimConfig, found: dict[str, Path], out: Path) -> dict[str, Path]:
    if not config.split:
        return found
    name, _, count = config.split.partition(":")
    _known([name], found)
    folders = split_site(found.pop(name), int(count), out / "split", skew=config.skew, seed=config.seed)
    cut = {folder.name: folder for folder in folders}
    # Cutting one site asks for its hospitals; other sites join only where they are named.
    return cut | {key: path for key, path in found.items() if key in config.sites}


def _choose(config: SimConfig, found: dict[str, Path]) -> list[Path]:
    cut_name = config.split.partition(":")[0]
    wanted = [name for name in (*config.sites, *config.hold_out) if name != cut_name]
    _known(wanted, found)
    names = list(found)
    if config.sites:
        names = [n for n in found if n in wanted or (cut_name and n.startswith(f"{cut_name}-"))]
    if len([n for n in names if n not in config.hold_out]) == 0:
        raise OmniFedError(
            "OF113",
            "At least one site must train.",
            seen=f"sites {', '.join(names) or 'none'}, held out {', '.join(config.hold_out) or 'none'}",
            remedy="Name a folder with sites (each with site.toml or index.csv), and hold out fewer than all.",
        )
    return [found[name] for name in names]


def _known(names: list[str], found: dict[str, Path]) -> None:
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise OmniFedError(
            "OF112",
            "A named site must be one of the folder's sites.",
            seen=", ".join(unknown),
            remedy=f"Known here: {', '.join(sorted(found)) or 'none'}.",
        )


def prepare_sites(
    folders: list[Path], config: SimConfig, run: Path, progress_of: Callable[[str], Progress]
) -> dict[str, SiteData]:
    """Decodes every site once into RUN/sites/NAME/data.

    Raises:
        OmniFedError: OF114 if two sites have the same registered name, or what reading a site raises.
    """
    size = (config.image_size, config.image_size) if config.image_size else None
    sites: dict[str, SiteData] = {}
    for folder in folders:
        site = load_site(folder)
        name = site.config.name
        if name in sites:
            raise OmniFedError(
                "OF114", "Registered names of sites are unique.", seen=name, remedy="Change `name` in one site.toml."
            )
        sites[name] = prepare(site, run / "sites" / name / "data", image_size=size, progress=progress_of(name))
    return sites
