"""What a person reads of a search: words and numbers of the page, the plot beside the JSON, the terminal's table."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import fake_search as fake
import pytest
from fake_run import make_run
from rich.console import Console

from omnifed.errors import OmniFedError
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec
from omnifed.reporting.report import write_report
from omnifed.reporting.run import load_run
from omnifed.reporting.search_console import search_table, search_tables
from omnifed.reporting.search_figures import write_pareto
from omnifed.reporting.search_words import Names, agreement_words, chosen_words, points, told_apart_words
from omnifed.search.results import Agreement, ArchitectureResult, Difference, WeightResult


class Page(HTMLParser):
    """Text, ids and links, and the text of each table's rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.drawn = 0
        self._in: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._in.append(tag)
        self.drawn += tag == "svg"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._in:
            self.texts.append(data)
        if self.rows and {"td", "th"} & set(self._in):
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, first: str) -> list[str]:
        (found,) = (row for row in self.rows if row and row[0] == first)
        return found


def built(folder: Path, found: ArchitectureResult | None = None, lambdas: WeightResult | None = None) -> Page:
    return Page(write_report(fake.make_search_run(folder, found, lambdas)).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return built(tmp_path_factory.mktemp("both"), fake.architecture(), fake.weights())


def test_a_run_that_only_searched_has_a_page_without_arms_that_stands_alone(page: Page) -> None:
    sections = [link[1:] for link in page.links if link.startswith("#") and "-figure" not in link]
    assert sections[:5] == ["summary", "search-architecture", "search-weights", "skipped", "configuration"]
    assert len(page.ids) == len(set(page.ids))
    assert set(sections) <= set(page.ids)
    assert all(link.startswith("#") for link in page.links)
    assert "Search in a federation" in page.text
    assert "2 sites · architecture search, 17 trials · search for OmniKD's weights, 24 trials" in page.text
    for word in ("No scores yet", "arms", "Training curves", "is not in this run folder", "images of single cases"):
        assert word not in page.text.replace('"arms": []', "")
    assert page.drawn == 5  # front, all networks, progress, gains, progress


def test_the_front_shows_each_network_with_what_it_costs_and_what_is_predicted(page: Page) -> None:
    small = page.row("0.60, 0.80 n6 c16-48-80-160-224")
    assert small[3:] == ["23.4", "26.0", "86", "0.655 ± 0.010", "5 up to 60 steps", "0.6260"]
    chosen = next(row for row in page.rows if row and "(chosen) n8 c32-48-112-224-288" in row[0])
    assert chosen[6:8] == ["0.701 ± 0.015", "predicted"]
    assert "Evidence of latencies and memory: modelled (computed by a latency model" in page.text
    assert "p95 latency of one 128 × 128 image (modelled)" in page.text
    assert "Bars: one standard deviation of the posterior" in page.text
    assert "Why: It has the best posterior Dice within the budget." in page.text
    assert "Budget: p95 latency 50 ms. Deployed at north, south <b>." in page.text
    assert "predicted and never tried; p95 47.0 ms of 50 ms (modelled), 107 MiB." in page.text


def test_the_papers_variants_are_held_against_the_front(page: Page) -> None:
    assert next(row for row in page.rows if row and row[0].startswith("accurate"))[1:] == [
        "96.0", "156", "no", "n8 c32-48-112-224-288", "−1.9 −4.0 to 0.2", "The verdict on accurate.",
    ]  # fmt: skip


def test_counts_cost_site_effects_and_agreement_are_on_the_page(page: Page) -> None:
    assert "17 told, 1 failed; 4 networks, trials of 20 or 60 optimiser steps" in page.text
    assert "1.23 times the training of the balanced student once" in page.text
    assert ["north", "+3.1", "9", "0"] in page.rows
    assert ["south <b>", "−3.1", "8", "1"] in page.rows
    assert "0.60 (95 % interval 0.10 to 1.00). About 80 % of all pairs" in page.text


def test_weights_stand_beside_table_3_and_what_cannot_be_told_apart_is_said_first(page: Page) -> None:
    assert "Not told apart. The data do not tell the weights found apart from Table 3's mean" in page.text
    assert "Keep Table 3's mean (logits 1.72, features 1.83, attention 1.00, relation 0.50, context 1.17)" in page.text
    assert page.row("Table 3's mean")[:6] == ["Table 3's mean", "1.72", "1.83", "1.00", "0.50", "1.17"]
    (north,) = (row for row in page.rows if row[0] == "north" and len(row) > 5)
    assert north[1:7] == ["0.00", "1.83", "1.00", "0.50", "2.95", "+0.8 −0.4 to 2.0 not told apart"]
    assert page.row("universal one for all sites")[2] == "2.25"
    assert page.row("without any term") == ["without any term", "0.0200", "50 %"]
    assert page.row("relation") == ["relation", "0.0050", "12 %"]
    assert "latency of the student, which is 47.0 ms here. That latency is the same for every λ" in page.text
    assert "γ = 0.05" in page.text


def test_a_search_beside_arms_adds_its_sections_and_a_run_without_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "arms", patients=2, size=16)
    before = Page(write_report(run).read_text())
    assert "search-architecture" not in before.ids
    assert "search-weights" not in before.ids
    (run / "search").mkdir()
    (run / "search/weights.json").write_text(fake.weights().model_dump_json())
    after = Page(write_report(run).read_text())
    assert "search-weights" in after.ids
    assert "search-architecture" not in after.ids
    assert "Search in a federation" not in after.text
    assert {"scores", "comparison", "cases"} <= set(after.ids)


def test_trials_and_misses_of_a_search_are_no_arm_and_bytes_told_again_count_once(tmp_path: Path) -> None:
    run = fake.make_search_run(tmp_path, fake.architecture())
    trial = {"event": "trial", "stage": "search-architecture", "site": "north", "number": 1, "dice": 0.5}
    events = [
        {"event": "round", "arm": "shared", "round": 0, "site": "north", "dice": 0.4, "bytes_up": 1, "bytes_down": 2},
        {**trial, "bytes_up": 1500, "bytes_down": 300},
        {**trial, "number": 2, "bytes_up": 500, "bytes_down": 200},
        {**trial, "again": True},
        {"event": "miss", "arm": "search-architecture", "round": -1, "site": "north", "code": "OF511", "rule": "Late."},
    ]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert load_run(run).arms == ()
    page = Page(write_report(run).read_text())
    assert ["search-architecture", "trials", "2", "500", "2 000"] in page.rows
    assert ["search-architecture", "north", "OF511", "Late.", "1"] in page.rows
    assert "curves" not in page.ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("architecture", "{"),
        ("architecture", fake.weights().model_dump_json()),
        ("weights", fake.weights().model_dump_json().replace('"dice":0.703', '"dice":null', 1)),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, name: str, content: str) -> None:
    run = fake.make_search_run(tmp_path)
    (run / "search" / f"{name}.json").write_text(content)
    for read in (write_report, search_tables):
        with pytest.raises(OmniFedError) as error:
            read(run)
        assert error.value.code == "OF423"
        assert f"{name}.json" in error.value.seen


def test_the_plot_beside_the_result_is_one_picture_that_stands_alone(tmp_path: Path) -> None:
    devices = (fake.device(), fake.device(name="jetson-nano", latency_ms=30.0, evidence="published"))
    write_pareto(fake.architecture(devices=devices), tmp_path / "architecture.svg")
    text = (tmp_path / "architecture.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text.encode())
    words = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"raspberry-pi-4 (modelled)", "jetson-nano (published)", "all networks", "compact", "accurate"} <= words
    assert {"chosen", "budget", "on the front, not tried", "network off the front"} <= words
    assert "p95 latency of one 128 x 128 image [ms], modelled" in words
    assert "validation Dice (bars: ± 1 sd)" in words
    assert "var(" not in text
    assert "currentColor" not in text
    write_pareto(fake.architecture(devices=devices), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == text


def test_a_result_with_nothing_in_it_still_makes_a_page(tmp_path: Path) -> None:
    device = fake.device(front=(), chosen="", variants=(), sites=())
    empty = fake.architecture(networks=(), devices=(device,), sites=(), agreement=None, history=(), trials=0)
    page = built(
        tmp_path, empty, fake.weights(history=(), sites=(), term_seconds={}, base_seconds=0.0, latency_ms=None)
    )
    assert "No student was chosen for raspberry-pi-4." in page.text
    assert "No site of this federation deploys it." in page.text
    assert "no network was trained longer" in page.text
    assert "which this run does not know" in page.text
    write_pareto(empty, tmp_path / "empty.svg")


def test_short_names_tell_networks_apart_by_the_options_that_differ() -> None:
    one, two = StudentSpec(alpha=0.6, beta=0.5), StudentSpec(alpha=0.6, beta=0.5, stem_stride=2, fusion="depthwise")
    keys = [architecture_key(one), architecture_key(two)]
    names = Names(keys)
    assert [names(key) for key in keys] == ["n6 c16-32-64-112-160 stem1 group", "n6 c16-32-64-112-160 stem2 depthwise"]
    assert Names(keys[:1])(keys[0]) == "n6 c16-32-64-112-160"
    assert names("another/family") == "another/family"
    assert names("a/x1/y2/z3") == "a/x1/y2/z3"
    assert Names([])("") == ""


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(points=1.25, low=-0.34, high=2.71), "+1.2 (−0.3 to 2.7)"),
        (Difference(points=-0.04, low=-2.0, high=-0.01), "0.0 (−2.0 to 0.0)"),
    ],
)
def test_differences_in_points(difference: Difference, text: str) -> None:
    assert points(difference) == text


@pytest.mark.parametrize(
    ("full", "tau", "low", "high", "words"),
    [
        (True, 0.8, 0.5, 1.0, "closely as longer training does, and better than chance"),
        (True, 0.5, 0.1, 0.9, "roughly"),
        (True, 0.2, 0.1, 0.3, "weakly"),
        (True, 0.2, -0.4, 0.8, "not shown that brief trials order networks better than chance"),
        (True, -0.6, -0.9, -0.1, "do not trust this search"),
        (True, 1.0, None, None, "too few networks for an interval"),
        (False, 0.8, 0.5, 1.0, "are no full trainings"),
    ],
)
def test_what_tau_means(full: bool, tau: float, low: float | None, high: float | None, words: str) -> None:
    found = Agreement(brief=20, long=60, full=full, networks=6, tau=tau, low=low, high=high)
    assert words in " ".join(agreement_words(found))


def test_weights_that_are_told_apart_are_named_and_the_others_keep_table_3() -> None:
    better = fake.site_weights("north", 2.0, 0.5, 3.5)
    words = told_apart_words(fake.weights(told_apart=True, sites=(better, fake.site_weights("south", 0.1, -1.0, 1.2))))
    assert "north +2.0 (0.5 to 3.5)." in words
    assert "The other 2 rows are not told apart" in words
    assert "universal" not in words


def test_a_target_that_sites_measure_is_called_so_and_memory_has_its_budget() -> None:
    device = fake.device(name="sites", profile="measured", evidence="measured", memory_mib=128.0)
    words = chosen_words(fake.architecture(), device)
    assert words.startswith("Chosen for the sites' own devices: n8 c32-48-112-224-288 (alpha 0.80, beta 1.20), 3.79 M")
    assert words.endswith("(measured), 107 of 128 MiB.")


def test_the_terminal_shows_the_chosen_student_and_lambda_by_site(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for table in search_tables(fake.make_search_run(tmp_path, fake.architecture(), fake.weights())):
        console.print(table)
    text = console.export_text()
    assert re.search(r"raspberry-pi-4 │ n8 c32-48-112-224-288 │ 0.701 ± 0.015 │ 47.0 of 50 │ 107", text)
    assert re.search(r"north +│ +0.00 │ +1.83 │ +1.00 │ +0.50 │ +2.95 │ \+0.8", text)
    assert "The data do not tell the weights found apart" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert search_tables(fake.make_search_run(tmp_path / "none")) == []
    none = fake.architecture(devices=(fake.device(front=(), chosen=""),))
    console.print(search_table(none))
    assert re.search(r"raspberry-pi-4 │ none +│ +- │ +- of 50", console.export_text())


def test_a_long_front_is_shown_by_a_dozen_and_says_how_many_it_has(tmp_path: Path) -> None:
    base = fake.device()
    one, network = base.front[0], fake.architecture().networks[0]
    keys = [f"{one.key}-{i}" for i in range(40)]
    front = tuple(one.model_copy(update={"key": key, "p95_ms": 20.0 + i}) for i, key in enumerate(keys))
    networks = [network.model_copy(update={"key": key, "trials": int(i == 7)}) for i, key in enumerate(keys)]
    device = base.model_copy(update={"front": front, "chosen": keys[13], "variants": ()})
    page = built(tmp_path, fake.architecture(devices=(device,), networks=(*fake.architecture().networks, *networks)))
    shown = [float(row[4]) for row in page.rows if len(row) == 9 and row[0].startswith(f"{network.student.alpha:.2f}")]
    assert 10 <= len(shown) <= 12
    assert {20.0, 27.0, 33.0, 59.0} <= set(shown), "both ends, the tried one and the chosen one"
    assert f"Shown are {len(shown)} of 40 members" in page.text
