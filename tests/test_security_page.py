"""Each threat on the page names tests that exist: a promise without a proof is none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_row_of_the_threat_model_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "**" not in line.split("|")[1]]
    threats = [row for row in rows if ".py::" in row]
    assert len(threats) >= 25
    for row in threats:
        for file, test in re.findall(r"`([\w/]+\.py)::(\w+)`", row.split("|")[3]):
            assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (file, test)
    table = PAGE.partition("## Threats")[2].partition("## What is not protected")[0]
    unproven = [
        line for line in table.splitlines() if line.startswith("| ") and ".py::" not in line and "**" not in line
    ]
    assert unproven == ["| threat | what stops it | proof, below `tests/` |"]


def test_every_page_that_is_linked_exists() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
