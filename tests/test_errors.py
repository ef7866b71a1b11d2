"""The numbers in the code and the pages in docs/errors are the same set, and what leaves a site is number and rule."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from omnifed.config import Frozen, load_toml
from omnifed.errors import OmniFedError

ROOT = Path(__file__).parents[1]
PACKAGES = ["omnifed", "server/omnifed_server", "client/omnifed_client", "sim/omnifed_sim"]


def test_every_number_has_a_page_and_every_page_a_number() -> None:
    code = {n for p in PACKAGES for f in (ROOT / p).rglob("*.py") for n in re.findall(r'"(OF\d{3})"', f.read_text())}
    pages = {path.stem for path in (ROOT / "docs" / "errors").glob("OF*.md")}
    assert code - pages == set(), "numbers without a page"
    assert pages - code == set(), "pages without a number"


def test_every_page_says_how_to_resolve() -> None:
    for path in (ROOT / "docs" / "errors").glob("OF*.md"):
        text = path.read_text().lower()
        assert text.startswith(f"# {path.stem.lower()}"), path
        assert "resolve" in text, path


def test_an_error_says_rule_value_and_remedy_but_only_number_and_rule_leave() -> None:
    error = OmniFedError("OF101", "The rule.", seen="/home/anna/secret", remedy="Do this.")
    assert str(error) == "OF101: The rule.\n  Seen: /home/anna/secret\n  Remedy: Do this.\n  More: docs/errors/OF101.md"
    assert error.public == "OF101: The rule."
    again = pickle.loads(pickle.dumps(error))  # our own bytes: errors cross process boundaries
    assert (again.code, again.rule, again.seen, again.remedy) == (error.code, error.rule, error.seen, error.remedy)


def test_a_wrong_key_is_named_by_its_path(tmp_path: Path) -> None:
    class Inner(Frozen):
        val: float = 0.1

    class Outer(Frozen):
        splits: Inner = Inner()

    file = tmp_path / "x.toml"
    file.write_text("[splits]\nval = 'many'\nvall = 1\n")
    with pytest.raises(OmniFedError, match=r"splits\.val: .*splits\.vall") as caught:
        load_toml(Outer, file)
    assert caught.value.code == "OF102"
    file.write_text("[splits\n")
    with pytest.raises(OmniFedError) as caught:
        load_toml(Outer, file)
    assert caught.value.code == "OF101"
