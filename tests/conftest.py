"""Fixtures of the whole suite. Nothing is downloaded; real images are used where they are present."""

from __future__ import annotations

import os

# Before torch is loaded: tests are small, and two threads beside another program wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real site images, from OMNIFED_DATA or ``../shared/data``; skips where there is none."""
    folder = Path(os.environ.get("OMNIFED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip("no real images here: set OMNIFED_DATA to a folder of sites")
    return folder
