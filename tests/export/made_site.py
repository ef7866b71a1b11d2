"""A site of bright discs on noise, a student trained on it for a moment, and the folders that hold both."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from omnifed.data.prepare import prepare
from omnifed.data.site_folder import load_site
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student
from omnifed.models.weights import to_state
from omnifed.states import add_prefix
from omnifed_client.store import SiteStore

SPEC = "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2,branches=true"
TOML = """name = "{name}"
modality = "ct"
channels = 1
image_size = [64, 64]
labels = {{ 0 = "background", 1 = "disc" }}
normalisation = {{ kind = "minmax" }}
mask_values = {{ 255 = 1 }}
"""


def write_site(folder: Path, name: str = "north", *, n: int = 24, seed: int = 0, masks: bool = True) -> Path:
    """A site of n patients, one image each, 64 x 64; without masks where ``masks`` is false."""
    (folder / "images").mkdir(parents=True)
    rng, yx = np.random.default_rng([seed]), np.mgrid[:64, :64]
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "patient"])
        for i in range(n):
            centre, radius = rng.uniform(20, 44, 2), rng.uniform(8, 16)
            disc = ((yx - centre[:, None, None]) ** 2).sum(0) < radius**2
            grey = 60 + 90 * disc + rng.normal(0, 20, (64, 64))
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"images/{i}.png")
            Image.fromarray((255 * disc).astype(np.uint8)).save(folder / f"images/{i}m.png")
            rows.writerow([f"images/{i}.png", f"images/{i}m.png" if masks else "", f"p{i}"])
    (folder / "site.toml").write_text(TOML.format(name=name))
    return folder


def trained(folder: Path, cache: Path, steps: int = 40) -> Student:
    """A student after some steps on the site's training images."""
    data = prepare(load_site(folder), cache)
    images = torch.from_numpy(np.asarray(data.train.images, np.float32))
    masks = torch.from_numpy(np.asarray(data.train.masks, np.int64))
    student = build_student(StudentSpec.parse(SPEC), data.config.spec, seed=1)
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.arange(step * 4, step * 4 + 4) % len(images)
        optimiser.zero_grad()
        F.cross_entropy(student(images[rows]).logits, masks[rows]).backward()
        optimiser.step()
    return student


def write_run(run: Path, student: Student, data: Path, arms: dict[str, list[str]]) -> Path:
    """A run folder as omnifed-sim leaves it: ``arms`` names the sites that adopted a model in each."""
    spec = student.spec.model_dump(mode="json")
    (run / "sites").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"student": spec, "image_size": 64, "data": str(data)}))
    for arm, sites in arms.items():
        for site in sites:
            write_arm(run / "sites" / site / "state" / "campaigns" / "sim" / "arms" / arm, student)
    return run


def write_arm(folder: Path, student: Student) -> None:
    """What a site keeps of an arm, STATE/campaigns/NAME/arms/ARM: the gate adopted the first of two rounds alone."""
    state, store = to_state(student), SiteStore(folder.parents[3], folder.parents[1].name)
    worse = {key: np.zeros_like(value) for key, value in state.items()}
    head = {"adopted_round": 0, "adopted_dice": 0.9, "previous_adopted_round": -1, "scales": {}}
    for number, kept in enumerate((state, worse)):
        store.save_round(folder.name, number, add_prefix("model", kept), head)
    store.save_adopted(folder.name, 0, state, 0.9)
