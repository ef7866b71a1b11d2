"""``model-card.md``: what a clinician and a security officer ask of the models of a campaign, from its run folder.

After Mitchell et al., "Model cards for model reporting", FAT* 2019. A card travels with its models: counts and scores
of few cases are left out of it, whatever a site told its coordinator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnifed.evaluation.score import MEAN
from omnifed.evaluation.tables import MetricRow
from omnifed.files import write_atomic
from omnifed.reporting.run import Run, load_run
from omnifed_server.card_words import LIMITS, METHODS, MODES, USE

MODEL_CARD = "model-card.md"
MIN_CASES = 20
"""Counts and scores below this are not shown."""
SMALL = f"fewer than {MIN_CASES}"


def write_card(run: Path) -> Path:
    """Writes the card of a run folder, of a coordinator or of a simulation.

    Args:
        run: folder with ``config.json`` and what else the campaign wrote; what is absent is said to be.

    Returns:
        Path of :data:`MODEL_CARD`.

    Raises:
        OmniFedError: OF422 if ``run`` is no run folder, OF423 if a file of it is damaged, OF103 if the disk is full.
    """
    path = run / MODEL_CARD
    write_atomic(path, (card(load_run(run)) + "\n").encode(), mode=0o644)
    return path


def card(run: Run) -> str:
    """The card as Markdown."""
    arm = str(run.costs.get("exported_arm") or run.main_arm or "")
    parts = [
        _head(run),
        _use(run),
        _model(run, arm),
        _data(run),
        _privacy(run, arm),
        _scores(run, arm),
        LIMITS,
        _verify(run),
    ]
    return "\n\n".join(parts)


def _head(run: Run) -> str:
    name = run.config.get("campaign") or run.config.get("name") or run.folder.resolve().name
    when = str(run.events[-1].get("time", ""))[:10] if run.events else ""
    return f"# Model card: {_text(name)}\n\n" + (
        f"Campaign of {len(run.site_names)} sites, last entry {_text(when)}." if when else ""
    )


def _use(run: Run) -> str:
    found = ["## Intended use", USE]
    if run.config.get("purpose"):
        found.append(f"Purpose that the sites agreed to: {_text(run.config['purpose'])}.")
    if _made(run):
        found.append("The sites are synthetic phantoms: the figures below say nothing about patients.")
    return "\n\n".join(found)


def _model(run: Run, arm: str) -> str:
    cost, config = run.costs, run.config
    size = cost.get("size", "not recorded")
    size = f"{size} x {size}" if isinstance(size, int) else _text(size)
    rows = [
        ("student", f"{_text(cost.get('student', 'not recorded'))}, {_number(cost.get('params'))} weights"),
        (
            "input",
            f"{size} pixels, {_number(cost.get('macs'))} multiplications a slice",
        ),
        ("method", METHODS.get(arm, _text(arm))),
        ("training", f"{config.get('rounds', '?')} rounds of {config.get('steps', '?')} steps at each site"),
        ("seed", _text(config.get("seed", "not recorded"))),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    text = "Each site deploys its own model: what is shared was averaged, what differs between sites stayed there."
    return "\n".join(["## Model", "", text, "", "| | |", "|---|---|", *lines])


def _data(run: Run) -> str:
    head = ["site", "modality", "classes", "training, with mask", "training, without", "validation", "test"]
    rows = []
    for site in run.sites:
        labels = site["labels"].values() if isinstance(site["labels"], dict) else site["labels"]
        name = f"{site['name']} (held out)" if site.get("held_out") else site["name"]
        counts = [_count(run, site.get(key)) for key in ("train", "unlabelled", "val", "test")]
        rows.append([_text(name), _text(site["modality"]), _text(", ".join(map(str, list(labels)[1:]))), *counts])
    return "\n".join(
        [
            "## Data, by site",
            "",
            "Slices, split by patient; no image, mask or patient key left a site.",
            "",
            *_table(head, rows),
        ]
    )


def _privacy(run: Run, arm: str) -> str:
    how = run.config.get("aggregation") or {}
    mode = "none" if arm in ("local", "central") else str(how.get("mode", "mean"))
    lines = ["## Privacy", "", f"- Aggregation `{mode}`: {MODES.get(mode, mode).format(rule=how.get('rule', ''))}."]
    dp = run.config.get("dp")
    if dp:
        delta = f"delta {dp['delta']:g}" if dp.get("delta") else "delta n^-1.1 for n training patients"
        lines.append(
            f"- Differential privacy of each training patient: epsilon at most {dp['epsilon']:g} a site, {delta}, "
            f"gradients clipped to {dp['clip']:g}. A site's policy may be stricter; its ledger says what was spent."
        )
    else:
        lines.append(
            "- No differential privacy: nothing bounds beforehand what the model may tell of a training patient."
        )
    return "\n".join(lines)


def _scores(run: Run, arm: str) -> str:
    head = ["site", "class", "Dice", "HD95", "NSD", "cases"]
    rows = []
    for site in run.site_names:
        own = [r.label for r in run.metrics if (r.site, r.arm) == (site, arm) and r.label != MEAN]
        classes = list(dict.fromkeys(own))
        labels = classes if len(classes) == 1 else [MEAN, *classes]  # the mean over one class is that class
        rows += [row for label in labels for row in _score_rows(run, arm, site, label)]
    if not rows:
        return "## Scores\n\nThe models were not tested."
    text = (
        "Test cases of each site, by the model that it deploys; in brackets the 95 % interval, bootstrap by patient. "
        "Dice and NSD run from 0 to 1, higher is better; HD95 is a distance, lower is better."
    )
    return "\n".join(["## Scores", "", text, "", *_table(head, rows)])


def _score_rows(run: Run, arm: str, site: str, label: str) -> Iterator[list[str]]:
    name = "foreground mean" if label == MEAN else _text(label)
    dice = run.score(arm, site, label)
    why = run.withheld(arm, site, label)
    if why or (dice and dice.n < MIN_CASES and not _made(run)):
        yield [_text(site), name, why or f"suppressed ({SMALL} cases)", "", "", ""]
    elif dice:
        unit = str(run.site_info.get(site, {}).get("unit") or "")
        cells = [_score(run.score(arm, site, label, m), d, u) for m, d, u in (("hd95", 1, unit), ("nsd", 3, ""))]
        yield [_text(site), name, _score(dice, 3, ""), *cells, str(dice.n)]


def _verify(run: Run) -> str:
    exports = run.once("export", "arm", "site")
    lines = [
        "## How to verify a model",
        "",
        "`omnifed verify MODEL.onnx --kit KIT` checks the file against its signed manifest.",
    ]
    lines += [f"- {_text(e.get('site', ''))}: sha256 `{_text(e['sha256'])}`" for e in exports if e.get("sha256")]
    versions = run.config.get("versions") or {}
    made = ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items()) or "not recorded"
    return "\n".join([*lines, "", f"Made with {made}."])


def _made(run: Run) -> bool:
    """Whether the sites are phantoms: nobody is behind a small number."""
    return bool(run.config) and not run.deployed and not run.config.get("data")


def _count(run: Run, value: Any) -> str:
    if not isinstance(value, int):
        return "not recorded"
    return SMALL if 0 < value < MIN_CASES and not _made(run) else str(value)


def _score(row: MetricRow | None, digits: int, unit: str) -> str:
    if row is None:
        return ""
    text = f"{row.mean:.{digits}f}" + (f" {unit}" if unit else "")
    return text if math.isnan(row.ci_low) else f"{text} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _text(value: Any) -> str:
    """A word from outside as plain text: a label is no markup."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
