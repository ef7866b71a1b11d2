from __future__ import annotations

import io
import json
import re
import shutil
import stat
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import HELD_OUT, SITES, make_run
from rich.console import Console

from omnifed.errors import OmniFedError
from omnifed.evaluation.tables import CaseRow, read_metrics, write_cases, write_metrics
from omnifed.reporting.compare import POOLED, compare
from omnifed.reporting.console import summary_table
from omnifed.reporting.report import write_report
from omnifed.reporting.run import load_run

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects ids, links and text; asserts that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "first")


@pytest.fixture(scope="module")
def html(run) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_stands_alone(page, html):
    assert html.startswith("<!doctype html>")
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert not re.search(r"url\((?!#)", html)


def test_every_link_of_the_contents_has_its_section_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_figures_take_the_colours_of_the_page(html):
    assert "#010203" not in html
    assert html.count("<svg") == 3
    assert "var(--line)" in html


def test_the_numbers_are_those_of_the_files(page, run):
    for row in read_metrics(run / "metrics.csv"):
        assert f"{row.mean:.{1 if row.metric == 'hd95' else 3}f}" in page.text
    for text in (
        "OF212",
        "The image is truncated.",
        "OF511",
        "Class spleen has 3 training slices.",
        "1 561 482",
    ):
        assert text in page.text
    assert "kopf-west held out: never trained" in page.text
    assert "could not be read and are left out: 1" in page.text  # the half line that a killed run leaves


def test_labels_are_escaped(html):
    assert "fluid &lt;b&gt;" in html
    assert "<b>" not in html


def test_every_site_and_arm_shows_its_chosen_cases(page):
    pictures = [link for link in page.links if link.startswith("data:")]
    assert len(pictures) == 3 * (3 * 6 + 2)


def test_the_page_is_its_owners(run, html):
    assert stat.S_IMODE((run / "report.html").stat().st_mode) == 0o600


def test_the_same_folder_gives_the_same_page(run, html):
    assert write_report(run).read_text() == html


def test_an_absent_file_leaves_its_section_out_with_a_sentence(run, tmp_path):
    shutil.copy(run / "config.json", tmp_path)
    page = Page(write_report(tmp_path).read_text())
    for name in ("metrics.csv", "cases.csv", "events.jsonl", "matrix.csv", "predictions/", "sites.json", "costs.json"):
        assert name in page.text
    assert "No teacher took part" in page.text


def test_metrics_alone_make_a_page(run, tmp_path):
    shutil.copy(run / "metrics.csv", tmp_path)
    assert "omnikd" in Page(write_report(tmp_path).read_text()).text


def test_real_data_are_not_called_phantoms(run, tmp_path, page):
    (tmp_path / "config.json").write_text(json.dumps({"data": "sites", "arms": ["local"]}))
    assert "synthetic phantoms" in page.text
    assert "synthetic phantoms" not in write_report(tmp_path).read_text()


def test_dollar_signs_are_no_formula(run, tmp_path):
    rows = [r._replace(site="cost $5 and $6") for r in read_metrics(run / "metrics.csv") if r.site == "derma-nord"]
    write_metrics(tmp_path / "metrics.csv", rows)
    assert "cost $5 and $6" in Page(write_report(tmp_path).read_text()).text


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("sites.json", b"{", "OF423"),
        ("costs.json", b"[]", "OF423"),
        ("cases.csv", b"arm,site\nx,y\n", "OF423"),
        ("predictions/omnikd/derma-nord.npz", b"PK\x03\x04 cut", "OF423"),
    ],
)
def test_a_damaged_file_is_named(run, tmp_path, name, content, code):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).write_bytes(content)
    with pytest.raises(OmniFedError) as error:
        write_report(copy)
    assert error.value.code == code
    assert Path(name).name in error.value.seen


def test_pickled_predictions_are_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "predictions/omnikd/derma-nord.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"ids": np.array(["a", "b", "c"], object)})
    with pytest.raises(OmniFedError, match="OF423"):
        write_report(copy)


def test_no_run_folder(tmp_path):
    with pytest.raises(OmniFedError) as error:
        write_report(tmp_path)
    assert error.value.code == "OF422"


def test_without_the_extra_the_error_names_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(OmniFedError, match=r"omnifed\[sim\]") as error:
        write_report(run)
    assert error.value.code == "OF421"


def test_comparisons_are_paired_by_case(run):
    results = {(c.arm, c.base, c.site): c for c in compare(load_run(run))}
    omnikd = results["omnikd", "fedbn", POOLED].difference
    assert omnikd.mean == pytest.approx(0.05, abs=0.015)  # 0.79 - 0.74
    assert omnikd.n == 24 * len(SITES)
    assert results["omnikd", "fedbn", HELD_OUT].verdict == "better"
    assert results["fedavg", "local", POOLED].verdict == "worse"
    assert ("local", "local", POOLED) not in results


def test_a_false_alarm_on_an_empty_case_counts_in_the_comparison(tmp_path):
    def row(arm: str, case: str, value: float) -> CaseRow:
        return CaseRow(arm, "a", case, f"p{case}", "mean", "dice", value)

    write_cases(tmp_path / "cases.csv", [row("local", "1", 0.8), row("fedbn", "1", 0.8), row("fedbn", "2", 0.0)])
    (tmp_path / "config.json").write_text(json.dumps({"arms": ["local", "fedbn"], "sites": []}))
    (tmp_path / "sites.json").write_text(json.dumps([{"name": "a"}]))
    (found,) = compare(load_run(tmp_path))
    assert (found.difference.mean, found.difference.n) == (-0.5, 2)


def test_the_console_table_shows_sites_arms_and_the_best_in_bold(run):
    console = Console(width=140, record=True, file=io.StringIO(), force_terminal=True)
    console.print(summary_table(run))
    text = console.export_text(clear=False)
    assert all(site in text for site in SITES)
    assert "central (ceiling)" in text
    best = load_run(run).score("omnikd", "derma-nord")
    assert best is not None
    assert re.search(rf"\x1b\[1m *{best.mean:.3f}", console.export_text(styles=True))
