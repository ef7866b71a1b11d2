"""Fixtures of the fault suite."""

from __future__ import annotations

import pytest
from reference import References


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    """Undisturbed runs of the federations of this session."""
    return References(tmp_path_factory.mktemp("references"))
