import json
import os
import sys
from pathlib import Path

import edge_dice
import numpy as np
import pytest
import torch
from edge.networks import build
from edge.runs import claim, run_file
from edge.sites import BySite, Mixed, Part, case_rows, classes_of, colour, restricted
from made_parts import make_part
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from omnifed.models.base import Out
from omnifed.training.batch import Batch
from omnifed.training.spec import TrainSpec


@pytest.fixture
def two_parts() -> list[Part]:
    left, right = np.zeros((32, 32)), np.zeros((32, 32))
    left[:, :16], right[:, 16:] = 1, 2
    return [make_part("one", 1, (0, 1), [left]), make_part("two", 3, (0, 2, 3), [right, right])]


class Fixed(nn.Module):
    """The same logits (classes,) at each pixel."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> Out:
        assert x.shape[1] == 3
        return Out(self.logits[None, :, None, None].expand(len(x), -1, *x.shape[2:]))


def test_classes_are_the_background_and_each_sites_own(two_parts: list[Part]) -> None:
    assert classes_of(two_parts) == 4


def test_a_batch_takes_equally_from_each_site_in_colour(two_parts: list[Part]) -> None:
    batch = Mixed(two_parts, TrainSpec(batch_size=4, augment=False)).batch(0)
    assert batch.image.shape == (4, 3, 32, 32)
    assert [sorted(set(label.flatten().tolist())) for label in batch.label] == [[0, 1], [0, 1], [0, 2], [0, 2]]
    with pytest.raises(ValueError, match="no multiple"):
        Mixed(two_parts, TrainSpec(batch_size=5))


def test_the_loss_of_a_site_sees_its_own_classes_alone(two_parts: list[Part]) -> None:
    label = torch.cat([torch.ones(1, 4, 4), torch.full((1, 4, 4), 2)]).long()
    present = torch.ones(5, dtype=torch.bool)
    batch = Batch(torch.zeros(2, 3, 4, 4), label, torch.ones(2, dtype=torch.bool), present, torch.zeros(2).long())
    _, parts = BySite(two_parts)(Fixed([0.0, 0.0, 0.0, 0.0]), batch, 0)
    assert float(parts["ce"]) == pytest.approx((np.log(2) + np.log(3)) / 2)
    # A large logit of a class of the other site changes nothing for a site: it is none of its classes.
    _, with_other = BySite(two_parts[:1])(
        Fixed([0.0, 0.0, 0.0, 50.0]),
        Batch(*(x[:1] for x in (batch.image, batch.label, batch.has_label)), present[:2], batch.index[:1]),
        0,
    )
    assert float(with_other["ce"]) == pytest.approx(np.log(2))


def test_the_test_of_a_site_sees_its_own_classes_alone(two_parts: list[Part]) -> None:
    model = Fixed([0.0, 1.0, 9.0, 2.0])
    grey = torch.zeros(1, 1, 8, 8)
    assert restricted(model, two_parts[0])(grey).logits[0, :, 0, 0].tolist() == [0.0, 1.0]
    assert restricted(model, two_parts[1])(colour(grey)).logits[0, :, 0, 0].tolist() == [0.0, 9.0, 2.0]


def test_dice_of_a_case_and_label(two_parts: list[Part]) -> None:
    # All of site one is called its class 1, which is half of the image: Dice 2 / 3. Site two: class 1 everywhere, so
    # that class 1 is nowhere in truth and class 2 nowhere in the prediction.
    rows = case_rows(Fixed([0.0, 1.0, 9.0, 2.0]), two_parts, "test")
    assert [(row["site"], row["label"], row["dice"]) for row in rows] == [
        ("one", "label-1", 0.666667),
        *[("two", "label-1", 0.0), ("two", "label-2", 0.0)] * 2,
    ]


def test_a_training_is_claimed_once(tmp_path: Path) -> None:
    file = run_file(tmp_path, "omnisegnet:compact", 1)
    assert file == tmp_path / "omnisegnet-compact" / "seed-1.json"
    with claim(file) as mine, claim(file) as other:
        assert (mine, other) == (True, False)
    file.with_suffix(".lock").write_text("999999999")  # of a process that is dead
    with claim(file) as mine:
        assert mine
        assert file.with_suffix(".lock").read_text() == str(os.getpid())
        file.write_text("{}")
    with claim(file) as mine:
        assert not mine
    assert not file.with_suffix(".lock").exists()


@pytest.fixture
def site_folder(tmp_path: Path) -> Path:
    """Six patients with a bright square, colour and grey."""
    draw = np.random.default_rng([0])
    for name, shape in (("skin", (48, 48, 3)), ("chest-xray", (48, 48))):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        lines = ["image,mask,patient"]
        for i in range(6):
            image, mask = draw.integers(0, 90, shape), np.zeros((48, 48), np.uint8)
            image[8:30, 10:36], mask[8:30, 10:36] = 200, 255
            Image.fromarray(image.astype(np.uint8)).save(folder / f"i{i}.png")
            Image.fromarray(mask).save(folder / f"m{i}.png")
            lines.append(f"i{i}.png,m{i}.png,p{i}")
        (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def test_a_training_ends_in_scores_and_weights_and_is_not_made_again(
    site_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, out = "omnisegnet:compact,stem_stride=2", tmp_path / "out"
    options = ["--data", str(site_folder), "--sites", "skin,chest-xray", "--networks", network, "--seeds", "3"]
    options += ["--image-size", "32", "--steps", "2", "--batch", "2", "--precision", "fp32", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["edge_dice.py", *options])
    edge_dice.main()
    assert f"seed 3  {network}: skin 0." in capsys.readouterr().err
    facts = json.loads(run_file(out, network, 3).read_text())
    assert facts["sites"] == {"skin": [0, 1], "chest-xray": [0, 2]}
    held = {(row["site"], row["split"], row["patient"]) for row in facts["cases"]}
    assert len(held) == 2 * (2 + 1)  # of six patients a quarter tests and 15 % validate
    build(network, 3).load_state_dict(load_file(run_file(out, network, 3).with_suffix(".safetensors")))
    edge_dice.main()
    assert capsys.readouterr().err == ""
