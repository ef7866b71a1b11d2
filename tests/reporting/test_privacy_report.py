"""What a report shows of scores that a site kept back, and of a leak report."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fake_run import make_run
from rich.console import Console

from omnifed.errors import OmniFedError
from omnifed.evaluation.score import SUPPRESSED
from omnifed.evaluation.tables import read_metrics, write_metrics
from omnifed.files import write_json
from omnifed.privacy.membership import AUDIT_FILE, Attack, Audit, SiteAudit
from omnifed.reporting.console import summary_table
from omnifed.reporting.report import write_report
from omnifed.reporting.run import load_run

WORDS = "suppressed (fewer than 20 cases)"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", patients=3)


def keep_back(run: Path, site: str, labels: set[str]) -> None:
    rows = [r for r in read_metrics(run / "metrics.csv") if not (r.site == site and r.label in labels)]
    kept = read_metrics(run / "metrics.csv")
    nan = float("nan")
    for arm in dict.fromkeys(r.arm for r in kept if r.site == site):
        row = next(r for r in kept if (r.arm, r.site) == (arm, site))
        rows += [row._replace(label=n, metric=SUPPRESSED, mean=20.0, ci_low=nan, ci_high=nan, n=0) for n in labels]
    write_metrics(run / "metrics.csv", rows)


def test_a_class_that_was_kept_back_is_named_without_a_figure(run):
    keep_back(run, "klinik-ct", {"spleen"})
    loaded = load_run(run)
    assert loaded.withheld("fedbn", "klinik-ct", "spleen") == WORDS
    assert loaded.withheld("fedbn", "klinik-ct") == ""
    page = write_report(run).read_text()
    assert page.count(WORDS) == 6  # each arm and the teacher, in the table of the class
    assert WORDS not in table(run)


def test_a_site_whose_mean_was_kept_back_leaves_no_mean_of_sites(run):
    keep_back(run, "augen-sued", {"mean", "fluid <b>"})
    assert load_run(run).score("fedbn", "augen-sued") is None
    page = write_report(run).read_text()
    assert page.count(WORDS) == 2 * 6  # the summary and the foreground mean: the only class has no table of its own
    assert "suppressed" in table(run)


def table(run: Path) -> str:
    stream = io.StringIO()
    Console(file=stream, width=300).print(summary_table(run))
    return stream.getvalue()


def test_a_leak_report_has_a_row_an_attack_and_its_verdict(run):
    attacks = (
        Attack(name="loss", auc=0.71, low=0.58, high=0.83, tpr=0.25),
        Attack(name="calibrated", auc=0.52, low=0.41, high=0.66, tpr=0.1),
    )
    sites = (
        SiteAudit(site="klinik-ct", arm="omnikd", members=20, others=14, references=2, attacks=attacks),
        SiteAudit(site="augen-sued", arm="omnikd", members=4, others=3),
    )
    audit = Audit(sites=sites)
    before = write_report(run).read_text()
    assert 'href="#leak"' not in before
    write_json(run / AUDIT_FILE, audit.model_dump(mode="json"))
    assert load_run(run).audit == audit
    page = write_report(run).read_text()
    assert 'href="#leak"' in page
    assert '0.71<span class="ci">0.58 to 0.83</span>' in page
    assert audit.sites[0].verdict in page
    assert "too few patients" in page
    (run / AUDIT_FILE).write_text('{"sites": []}')
    with pytest.raises(OmniFedError, match="OF423"):
        write_report(run)
