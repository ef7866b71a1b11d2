"""The statistics by hand, and the attacks on real students: one overfitted on purpose, one that saw nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from omnifed.data.prepare import prepare
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError
from omnifed.export.source import Source
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import to_state
from omnifed.privacy.leak import Signals, audit, signals
from omnifed.privacy.leak_plot import leak_plot
from omnifed.privacy.membership import Attack, SiteAudit, attack_of, auc, enough, found_at, roc

SPEC = StudentSpec(alpha=0.6, beta=0.5, stem_stride=2)
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=12)
TOML = """name = "north"
modality = "ct"
channels = 1
image_size = [32, 32]
labels = { 0 = "background", 1 = "disc" }
normalisation = { kind = "minmax" }
mask_values = { 255 = 1 }
splits = { val = 0.25, test = 0.25 }
"""


def made(folder: Path, patients: int, seed: int) -> Source:
    """Two slices a patient whose masks follow no rule: only who has seen them can know them."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng([seed])
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "patient"])
        for i in range(2 * patients):
            mask = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8)))
            Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(folder / f"images/{i}.png")
            Image.fromarray((255 * mask).astype(np.uint8)).save(folder / f"images/{i}m.png")
            rows.writerow([f"images/{i}.png", f"images/{i}m.png", f"p{i // 2}"])
    (folder / "site.toml").write_text(TOML)
    model = build_student(SPEC, SiteSpec(1, 2), seed=1)
    return Source(to_state(model), SPEC, load_site(folder), cache=folder.parent / f"{folder.name}-cache")


def overfitted(source: Source, steps: int = 40) -> Source:
    data = prepare(source.site, source.cache)
    images = torch.from_numpy(np.asarray(data.train.images, np.float32))
    masks = torch.from_numpy(np.asarray(data.train.masks, np.int64))
    student = build_student(SPEC, data.config.spec, seed=1)
    optimiser = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(student(images).logits, masks).backward()
        optimiser.step()
    return replace(source, state=to_state(student))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Source:
    return made(tmp_path_factory.mktemp("leak") / "north", 24, 0)


@pytest.fixture(scope="module")
def memorised(untrained) -> Source:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield overfitted(untrained)
    torch.set_num_threads(before)


# By hand ------------------------------------------------------------------------------------------------------------


def test_auc_of_five_numbers_with_ties():
    # Members 3, 2, 1 against 2, 0: wins 1+1, 0.5+1, 0+1 of 6 pairs.
    assert auc(np.array([3, 2, 1]), np.array([2, 0])) == 4.5 / 6
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


def test_the_roc_curve_by_hand():
    false, true = roc(np.array([3, 2, 1]), np.array([2, 0]))
    np.testing.assert_allclose(false, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(true, [0, 1 / 3, 2 / 3, 1, 1])


def test_members_found_while_one_of_ten_others_is_accused():
    others = np.arange(10.0)  # the one accused is 9: the threshold lies at 8
    assert found_at(np.array([8.5, 9.5, 8.0, 1.0]), others) == 0.5
    assert found_at(np.array([8.5, 9.5, 8.0, 1.0]), others[:9]) == 0.5  # of nine, nobody may be accused
    assert found_at(np.array([5.0]), np.array([5.0])) == 0.0


@given(SCORES, SCORES)
def test_auc_is_the_area_below_the_curve_and_the_rank_formula(members, others):
    a, b = np.array(members, float), np.array(others, float)
    false, true = roc(a, b)
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    both = np.concatenate([a, b])
    ranks = np.array([(both < x).sum() + ((both == x).sum() + 1) / 2 for x in a])
    by_rank = (ranks.sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    assert auc(a, b) == pytest.approx(area)
    assert auc(a, b) == pytest.approx(by_rank)
    assert auc(b, a) == pytest.approx(1 - auc(a, b))
    assert found_at(a, b, 1.0) == 1.0


def test_the_interval_is_drawn_by_patient_and_repeatable():
    rng = np.random.default_rng([7])
    a, b = rng.normal(0.5, 1, 60), rng.normal(0, 1, 40)
    attack = attack_of("loss", a, b)
    assert attack == attack_of("loss", a, b)
    # Hanley and McNeil, Radiology 1982: the standard error of an AUC.
    area = attack.auc
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = ((area * (1 - area) + 59 * (q1 - area**2) + 39 * (q2 - area**2)) / (60 * 40)) ** 0.5
    assert attack.high - attack.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def of(*attacks: tuple[str, float, float, float]) -> SiteAudit:
    made = tuple(Attack(name=name, auc=a, low=low, high=high, tpr=0.1) for name, a, low, high in attacks)
    return SiteAudit(site="north", arm="omnikd", members=16, others=8, attacks=made)


def test_the_verdict_claims_no_more_than_the_interval():
    shown = of(("loss", 0.7, 0.55, 0.85), ("confidence", 0.8, 0.45, 0.95))
    assert shown.strongest.name == "loss"
    assert "70 of 100 pairs (AUC 0.70 [0.55, 0.85])" in shown.verdict
    assert [a.verdict for a in shown.attacks] == ["better than guessing", "nothing shown"]
    not_shown = of(("loss", 0.6, 0.4, 0.8), ("confidence", 0.3, 0.1, 0.49))
    assert "None of 2 attacks" in not_shown.verdict
    assert "up to 0.80 cannot be ruled out" in not_shown.verdict
    assert not_shown.attacks[1].verdict == "worse than guessing"
    assert "16 and 8" in of().verdict


def test_an_audit_of_a_handful_is_refused():
    with pytest.raises(OmniFedError, match="OF891") as caught:
        enough((of(),))
    assert caught.value.seen == "north: 16 and 8"
    enough((of(), of(("loss", 0.5, 0.4, 0.6))))


# On students --------------------------------------------------------------------------------------------------------


def test_an_overfitted_student_tells_who_it_was_trained_on(memorised, untrained):
    found, scores = audit(memorised, "local", memorised.cache, [untrained])
    assert (found.members, found.others, found.references) == (12, 12, 1)
    loss, _, calibrated = found.attacks
    assert loss.auc > 0.8
    assert loss.low > 0.5
    assert calibrated.low > 0.5
    assert "tells who it was trained on" in found.verdict
    assert leak_plot([(found, scores)]).startswith(b"\x89PNG")


def test_an_untrained_student_tells_nothing(untrained):
    calls = []
    found, _ = audit(untrained, "local", untrained.cache, progress=lambda *done: calls.append(done))
    assert [a.name for a in found.attacks] == ["loss", "confidence"]
    assert all(a.low < 0.5 < a.high for a in found.attacks)
    assert "cannot be ruled out" in found.verdict
    assert calls[-1] == (48, 48)


def test_a_patient_counts_once_however_many_slices(memorised):
    data = prepare(memorised.site, memorised.cache)
    model = build_student(SPEC, data.config.spec, seed=1)
    found = signals(model, (data.train,))
    assert isinstance(found, Signals)
    assert found.loss.shape == found.entropy.shape == (12,)
    one = replace(data.train, has_mask=np.array([p == data.train.patients[0] for p in data.train.patients]))
    np.testing.assert_allclose(signals(model, (one,)).loss, found.loss[:1], rtol=1e-5)


def test_a_few_patients_give_no_figures(tmp_path):
    few = made(tmp_path / "few", 8, 1)
    found, scores = audit(few, "local", few.cache)
    assert (found.members, found.others) == (4, 4)
    assert (found.attacks, scores) == ((), {})


def test_half_a_model_is_refused(untrained):
    half = {key: value for key, value in untrained.state.items() if not key.startswith("head")}
    for state in (half, {**untrained.state, "more": np.zeros(1, np.float32)}):
        with pytest.raises(OmniFedError, match="OF892"):
            audit(replace(untrained, state=state), "local", untrained.cache)
