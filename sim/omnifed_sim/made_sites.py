"""Site folders that the simulator makes: complete or absent, and never written over somebody's own data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.files import write_json

STAMP = ".made.json"
"""Arguments that made the folder; there once the folder is complete."""


def make_site(folder: Path, stamp: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Makes ``folder`` by ``write``, or keeps it where the same arguments made it.

    Args:
        folder: the site's final place.
        stamp: everything that the content depends on, JSON-able.
        write: fills an empty folder of the final name; its parent is temporary.

    Returns:
        ``folder``.

    Raises:
        OmniFedError: OF250 if ``folder`` is there and was not made here.
    """
    if folder.exists():
        try:
            if json.loads((folder / STAMP).read_text(encoding="utf-8")) == stamp:
                return folder
        except (OSError, ValueError):
            raise OmniFedError(
                "OF250",
                "A made site replaces only a site that was made before.",
                seen=str(folder),
                remedy="Choose another output folder, or move this one away.",
            ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".made-") as part:
        made = Path(part) / folder.name
        made.mkdir()
        write(made)
        write_json(made / STAMP, stamp)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return folder
