"""Every error that site data can end in has a page, and every page an error."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pages_and_numbers_agree() -> None:
    sources = [ROOT / "omnifed" / "cli" / "data.py", *(ROOT / "omnifed" / "data").rglob("*.py")]
    raised = {code for file in sources for code in re.findall(r'"(OF2[0-4]\d)"', file.read_text())}
    pages = {page.stem for page in (ROOT / "docs" / "errors").glob("OF2[0-4]?.md")}
    assert raised == pages
    for code in pages:
        text = (ROOT / "docs" / "errors" / f"{code}.md").read_text()
        assert text.startswith(f"# {code}: ")
        assert "## How to resolve" in text
