"""Fixtures of the whole suite. Nothing is downloaded; real images are used where they are present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real site images, from OMNIFED_DATA or ``../shared/data``; skips where there is none."""
    folder = Path(os.environ.get("OMNIFED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip("no real images here: set OMNIFED_DATA to a folder of sites")
    return folder
