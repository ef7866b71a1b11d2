"""What the page says: a run turned into the tables and sentences of the template."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

from markupsafe import Markup

from omnifed.evaluation.score import MEAN, METRICS
from omnifed.evaluation.tables import TEACHER
from omnifed.privacy.membership import ATTACKS, MOST_FALSE
from omnifed.reporting import figures
from omnifed.reporting.compare import POOLED, Comparison, compare
from omnifed.reporting.pictures import Case, label_colours, read_cases_of
from omnifed.reporting.run import CENTRAL, Run
from omnifed.reporting.search import search_context, search_sentences

ARM_TEXT = {
    "local": "each site trains alone; nothing is shared",
    "fedavg": "FedAvg: the whole student is averaged (McMahan et al., 2017)",
    "fedprox": "FedProx: FedAvg with a proximal term (Li et al., 2020)",
    "fedbn": "FedBN: averaged, but the normalisation layers stay at the site (Li et al., 2021)",
    "omnikd": "OmniKD: FedBN, and each student learns from its own site's teacher",
    "central": "all images in one place; a ceiling, not a method that hospitals could choose",
    TEACHER: "the large network, fine-tuned at the site; it never leaves it",
}
_PICTURE_SITES = 12
_FIGURE_ROWS = 150
MIB = 2**20


def number(value: Any, digits: int = 3) -> str:
    """A figure for a table: fixed digits, an en dash where there is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u2009") if isinstance(value, int | float) else "–"


def seconds(value: Any) -> str:
    """Seconds, minutes or hours, in words that read at a glance."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def context(run: Run) -> dict[str, Any]:
    """Everything that the template reads."""
    arms = list(run.arms)
    with_teacher = [*arms, TEACHER] if any(r.arm == TEACHER for r in run.metrics) else arms
    comparisons = compare(run, seed=int(run.config.get("seed") or 0)) if run.cases else []
    means = {arm: run.site_mean(arm) for arm in with_teacher}
    teachers, costs, traffic = _teachers(run), _costs(run), _traffic(run)
    small = len(with_teacher) * len(run.site_names) <= _FIGURE_ROWS
    return search_context(run) | {
        "run": run,
        "left_out": _left_out(run, bool(teachers), bool(costs or traffic)),
        "title": run.folder.resolve().name,
        "finished": str(run.events[-1].get("time", "")) if run.events else "",
        "deployed": run.deployed,
        "phantoms": bool(run.config) and not run.deployed and not run.config.get("data"),
        "arms": arms,
        "columns": with_teacher,
        "arm_text": ARM_TEXT,
        "colour": figures.colour,
        "means": means,
        "best_mean": run.best_arm({a: v for a, v in means.items() if a != TEACHER}),
        "best_at": {s: _best_at(run, s) for s in run.site_names},
        "sentences": list(_sentences(run, means, comparisons)),
        "dice_figure": Markup(figures.dice_by_site(run, with_teacher)) if run.metrics and small else "",
        "tables": [_scores_of(run, s, with_teacher) for s in run.site_names if run.metrics],
        "comparisons": comparisons,
        "curves": Markup(figures.curves(run)) if arms else "",
        "losses": Markup(figures.loss_parts(run, run.main_arm)) if run.main_arm else "",
        "teachers": teachers,
        "attacks": ATTACKS,
        "most_false": round(100 * MOST_FALSE),
        "matrices": _matrices(run),
        "pictures": _pictures(run, with_teacher),
        "picture_limit": _PICTURE_SITES,
        "label_colours": {str(s["name"]): label_colours(_labels(s)) for s in run.sites},
        "costs": costs,
        "traffic": traffic,
        "teach_seconds": sum(float(e.get("seconds") or 0) for e in run.once("teach", "site")),
        "exports": run.once("export", "arm", "site"),
        "skipped": _skipped(run),
        "misses": sorted(run.counted("miss", "arm", "site", "code", "rule").items()),
        "warnings": _warnings(run),
        "configuration": json.dumps(run.config, indent=2, ensure_ascii=False),
        "MEAN": MEAN,
        "CENTRAL": CENTRAL,
        "TEACHER": TEACHER,
        "POOLED": POOLED,
        "number": number,
        "count": count,
        "seconds": seconds,
        "MIB": MIB,
    }


def _left_out(run: Run, teachers: bool, costs: bool) -> tuple[str, ...]:
    """Sections about arms, where a run has searched alone; elsewhere an empty section says what is missing."""
    if not run.only_searched:
        return ()
    own = {"teachers": teachers, "support": bool(run.sites), "costs": costs or bool(run.costs)}
    return ("scores", "comparison", "curves", "matrix", "cases", "methods", *(k for k, v in own.items() if not v))


def _best_at(run: Run, site: str) -> str | None:
    return run.best_arm({arm: row.mean for arm in run.arms if (row := run.score(arm, site))})


def _sentences(run: Run, means: dict[str, float], comparisons: list[Comparison]) -> Any:
    trained = [s for s in run.site_names if not run.held_out(s)]
    best = run.best_arm({a: v for a, v in means.items() if a != TEACHER})
    yield from search_sentences(run)
    if best:
        yield f"Highest mean Dice over the {len(trained)} training sites: {best}, {number(means[best])}."
    if not math.isnan(means.get(TEACHER, math.nan)):
        yield f"The teachers, each at its own site, reach {number(means[TEACHER])} on the same test cases."
    for c in comparisons:
        d = c.difference
        if c.site == POOLED and c.arm != CENTRAL:
            sign = "+" if d.mean >= 0 else ""
            yield (
                f"{c.arm} against {c.base}: {sign}{number(d.mean)} Dice over {d.n} test cases of {d.groups} patients "
                f"(95 % interval {number(d.low)} to {number(d.high)}, {_p_words(d.p)}): {c.verdict}."
            )
    missed = sum(1 for _ in run.of("miss"))
    if missed:
        words = "1 reply of a site was" if missed == 1 else f"{missed} replies of sites were"
        yield f"{words} missed and did not count: see “Skipped and missed”."


def p_value(p: float) -> str:
    """A p value, not more exact than it is."""
    return "–" if math.isnan(p) else ("< 0.001" if p < 0.001 else f"{p:.3f}")


def _p_words(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _scores_of(run: Run, site: str, arms: list[str]) -> dict[str, Any]:
    labels = list(dict.fromkeys(r.label for r in run.metrics if r.site == site and r.label != MEAN))
    unit = str(run.site_info.get(site, {}).get("unit") or "")

    def rows(label: str) -> list[tuple[str, list[Any], str]]:
        found = [(a, [run.score(a, site, label, m) for m in METRICS], run.withheld(a, site, label)) for a in arms]
        return [(arm, cells, why) for arm, cells, why in found if why or any(cells)]

    return {
        "site": site,
        "unit": unit or "mm or px",
        "mean": rows(MEAN),
        "classes": [(label, rows(label)) for label in labels] if len(labels) > 1 else [],
    }


def _teachers(run: Run) -> list[dict[str, Any]]:
    taught = {str(e.get("site")): e for e in run.of("teach")}
    result = []
    for site in run.site_names:
        row = run.score(TEACHER, site)
        if row or site in taught:
            students = {arm: run.score(arm, site) for arm in run.arms if arm != CENTRAL}
            main = students.get(run.main_arm or "")
            share = main.mean / row.mean if main and row and row.mean > 0 else math.nan
            result.append({"site": site, "teacher": row, "main": main, "share": share, "teach": taught.get(site, {})})
    return result


def _matrices(run: Run) -> list[dict[str, Any]]:
    result = []
    for arm in dict.fromkeys(r.arm for r in run.matrix):
        cells = {(r.model_site, r.test_site): r for r in run.matrix if r.arm == arm}
        order = {site: i for i, site in enumerate(run.site_names)}
        names, tests = (sorted({k[i] for k in cells}, key=lambda s: (order.get(s, len(order)), s)) for i in (0, 1))
        result.append({"arm": arm, "models": names, "tests": tests, "cells": cells})
    return result


def _pictures(run: Run, arms: list[str]) -> list[tuple[str, list[tuple[str, list[Case]]]]]:
    result = []
    for site in run.site_names[:_PICTURE_SITES]:
        files = [(arm, run.folder / "predictions" / arm / f"{site}.npz") for arm in arms]
        found = [(arm, cases) for arm, path in files if path.is_file() and (cases := read_cases_of(path))]
        if found:
            result.append((site, found))
    return result


def _labels(site: dict[str, Any]) -> list[str]:
    """Label names by id, from a list or from a mapping of ids to names."""
    labels = site["labels"]
    return [str(v) for v in (labels.values() if isinstance(labels, dict) else labels)]


def _costs(run: Run) -> list[dict[str, Any]]:
    rounds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for e in run.once("round", "arm", "round", "site"):
        for key in ("seconds", "bytes_up", "bytes_down"):
            rounds[str(e.get("arm"))][key] += float(e.get(key) or 0)
    totals = {str(e.get("arm")): e for e in run.of("arm")}
    return [
        {"arm": arm, "total": totals.get(arm, {}), "rounds": dict(rounds.get(arm, {}))}
        for arm in run.arms
        if arm in totals or arm in rounds
    ]


def _traffic(run: Run) -> list[tuple[str, str, int, int, int]]:
    """Arm, round, replies, bytes to the sites and from them: counted where messages were sent, not estimated."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    found = [(e, str(int(e.get("round") or 0) + 1)) for e in run.once("round", "arm", "round", "site")]
    found += [(e, "adopt, test") for e in run.once("evaluate", "arm", "site", "which", "split") if "bytes_down" in e]
    # Trials that a resumed search tells again have no bytes.
    found += [({**e, "arm": e.get("stage")}, "trials") for e in run.of("trial") if not e.get("again")]
    for e, step in found:
        row = rows[str(e.get("arm")), step]
        for place, value in enumerate((1, e.get("bytes_down"), e.get("bytes_up"))):
            row[place] += int(value or 0)
    order = {arm: place for place, arm in enumerate([TEACHER, *run.arms])}
    return [(*key, *rows[key]) for key in sorted(rows, key=lambda key: order.get(key[0], len(order)))]  # type: ignore


def _skipped(run: Run) -> list[tuple[str, str, str, int]]:
    rows: dict[tuple[str, str, str], int] = {}
    for e in run.of("skip"):
        key = (str(e.get("site", "")), str(e.get("code", "")), str(e.get("reason", "")))
        rows[key] = max(rows.get(key, 0), int(e.get("count") or 1))
    for site in run.sites:
        for s in site.get("skipped") or ():
            # sites.json and the events say the same of a site: the larger count, not the sum.
            key = (str(site["name"]), str(s.get("code", "")), str(s.get("reason", "")))
            rows[key] = max(rows.get(key, 0), int(s.get("count") or 1))
    return [(*key, n) for key, n in sorted(rows.items())]


def _warnings(run: Run) -> list[tuple[str, str]]:
    found = [(str(s["name"]), str(w)) for s in run.sites for w in s.get("warnings") or ()]
    found += [(str(e.get("site", "")), str(e.get("text", ""))) for e in run.of("warning")]
    if run.broken_events:
        found.append(("", f"Lines of events.jsonl that could not be read and are left out: {run.broken_events}."))
    return list(dict.fromkeys(found))
