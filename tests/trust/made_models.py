"""A federation with three sites, and a small sealed model that one of them has signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from omnifed.data.site import Normalisation
from omnifed.export.card import INPUT, KEY, OPSET, OUTPUT, ExportCard
from omnifed.export.seal import sealed
from omnifed.export.signed import write_model
from omnifed.models.spec import StudentSpec
from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.manifest import Origin

ORIGIN = Origin(campaign="liver", arm="omnikd", mode="private", epsilon=3.0, delta=1e-3)


def card(**changes: object) -> ExportCard:
    values = {
        "omnifed": "0.1.0",
        "student": StudentSpec(),
        "modality": "other",
        "labels": {0: "background", 1: "disc"},
        "channels": 1,
        "image_size": (32, 32),
        "normalisation": Normalisation(kind="window", window=(0, 200)),
    }
    return ExportCard(**(values | changes))


def proto(weight: float = 1.0, **changes: object) -> ModelProto:
    """Label 1 where an 8-bit image is above 100."""
    weights = numpy_helper.from_array(np.array([[[[0]]], [[[weight]]]], np.float32), "w")
    ends = [
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 1, 32, 32]),
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 2, 32, 32]),
    ]
    graph = helper.make_graph([helper.make_node("Conv", [INPUT, "w"], [OUTPUT])], "g", ends[:1], ends[1:], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(made, {KEY: card(**changes).model_dump_json()})
    return made


def content(weight: float = 1.0) -> bytes:
    return sealed(proto(weight).SerializeToString())


def member(folder: Path, coordinator: CoordinatorIdentity, site: str, now: datetime | None = None) -> SiteIdentity:
    return join(folder, admit(coordinator.folder, enrol(folder, site, now=now), now=now), now=now)


class Federation:
    """Coordinator, sites north and south, and ``model.onnx`` signed by north two days ago."""

    def __init__(self, folder: Path, name: str = "liver-net") -> None:
        self.folder = folder
        self.then = datetime.now(UTC) - timedelta(days=3)
        self.signed = self.then + timedelta(days=1)
        self.coordinator = found(folder / "coordinator", name, "127.0.0.1:9092", now=self.then)
        self.north = member(folder / "north", self.coordinator, "north", self.then)
        self.south = member(folder / "south", self.coordinator, "south", self.then)
        self.model = folder / "model.onnx"
        self.sign(self.north)

    @property
    def roster(self) -> Path:
        return self.coordinator.folder / "roster.json"

    @property
    def root(self) -> str:
        return self.coordinator.about.root

    @property
    def beside(self) -> Path:
        return self.folder / "model.onnx.manifest.json"

    def sign(self, site: SiteIdentity, model: bytes | None = None, now: datetime | None = None) -> None:
        from omnifed.trust import manifest

        write_model(self.model, model or content(), None, ORIGIN)
        body = self.model.read_bytes()
        text = card().model_dump_json()
        manifest.sign_model(self.model, body, text, site, ORIGIN, now=now or self.signed)
