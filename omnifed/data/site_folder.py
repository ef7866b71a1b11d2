"""A site is a folder with an index.csv and, once somebody has looked at it, a site.toml."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from omnifed.config import load_toml
from omnifed.data.index import Row, read_index
from omnifed.data.propose import propose_site
from omnifed.data.site import SITE_TOML, SiteConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """A site's folder, configuration and index."""

    config: SiteConfig
    root: Path
    rows: tuple[Row, ...]

    def path(self, entry: str) -> Path:
        """A path of the index as a path on disk."""
        return self.root / entry


def load_site(folder: Path) -> Site:
    """Reads a site folder. Without site.toml a proposal is made in memory, and the log says so.

    Raises:
        OmniFedError: OF101, OF102 for a wrong site.toml; OF201..OF206 for a wrong index.
    """
    folder = Path(folder)
    if (folder / SITE_TOML).is_file():
        config = load_toml(SiteConfig, folder / SITE_TOML)
    else:
        config = propose_site(folder)
        log.info(
            "site %s has no site.toml: using a proposal; write and review it with `omnifed init-site`", config.name
        )
    return Site(config, folder, read_index(folder / config.index))
