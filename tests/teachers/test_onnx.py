import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from omnifed.data.prepared import Prepared
from omnifed.data.site import Normalisation, SiteConfig
from omnifed.errors import OmniFedError
from omnifed.export.card import KEY, ExportCard
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec
from omnifed.states import write_sealed
from omnifed.teachers.base import WEIGHTS
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec

VAULT = bytes(range(32))
CONFIG = SiteConfig(
    name="test",
    modality="ct",
    labels={0: "background", 1: "disc"},
    image_size=(64, 64),
    normalisation=Normalisation(kind="window"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logits (-x, x) of image x, as a file like those that students are exported to."""
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    path.write_bytes(made_model())
    return path


def made_model(*, mixes: bool = False) -> bytes:
    """Logits (-x, x) of image x; with ``mixes`` less the mean of the batch."""
    weights = numpy_helper.from_array(np.array([-1, 1], np.float32).reshape(2, 1, 1, 1), "w")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, 64, 64])
        for name, channels in (("image", 1), ("logits", 2))
    ]
    nodes = [helper.make_node("Conv", ["image", "w"], ["own" if mixes else "logits"])]
    if mixes:
        first = numpy_helper.from_array(np.array([0], np.int64), "first")
        nodes += [helper.make_node("ReduceMean", ["own", "first"], ["all"])]
        nodes += [helper.make_node("Sub", ["own", "all"], ["logits"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights, *([first] if mixes else [])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    card = ExportCard(
        omnifed="0",
        student=StudentSpec(),
        modality="ct",
        labels=CONFIG.labels,
        channels=1,
        image_size=CONFIG.image_size,
        normalisation=CONFIG.normalisation,
    )
    helper.set_model_props(proto, {KEY: card.model_dump_json()})
    return proto.SerializeToString()


def test_an_exported_model_teaches_its_logits_and_nothing_else(model: Path, val: Prepared, tmp_path: Path) -> None:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    teacher = build_teacher(
        TeacherSpec(kind="onnx", checkpoint=str(model), sha256=digest), CONFIG.spec, image_size=(64, 64)
    )
    x = torch.randn(3, 1, 64, 64)
    out = teacher.predict(x)
    assert torch.allclose(out.logits[:, 1], x[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)), atol=1e-6)
    assert torch.equal(out.logits[:, 0], -out.logits[:, 1])
    assert out.features == {}
    assert dict(teacher.feature_channels) == {}
    assert teacher.predict(torch.randn(1, 1, 96, 96)).logits.shape == (1, 2, 16, 16)
    before = teacher.id
    metrics = teacher.fit(val, val)
    assert 0.8 < metrics["dice"] < 1  # the discs are brighter than 0, but for noise
    assert teacher.id == before
    teacher.save(tmp_path / "t.sealed", VAULT)
    teacher.load(tmp_path / "t.sealed", VAULT)


def test_another_file_is_not_taken_for_the_saved_one(model: Path, tmp_path: Path) -> None:
    teacher = build_teacher(TeacherSpec(kind="onnx", checkpoint=str(model)), CONFIG.spec, image_size=(64, 64))
    write_sealed(tmp_path / "t.sealed", {}, {"id": "0" * 64}, VAULT, WEIGHTS)
    with pytest.raises(OmniFedError, match="OF326"):
        teacher.load(tmp_path / "t.sealed", VAULT)


@pytest.mark.parametrize("site", [SiteSpec(1, 5), SiteSpec(3, 2)])
def test_a_model_for_another_site_is_refused(model: Path, site: SiteSpec) -> None:
    with pytest.raises(OmniFedError, match="OF327"):
        build_teacher(TeacherSpec(kind="onnx", checkpoint=str(model)), site, image_size=(64, 64))


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF320"):
        build_teacher(TeacherSpec(kind="onnx", checkpoint=str(tmp_path / "no.onnx")), CONFIG.spec, image_size=(64, 64))


def test_a_model_with_another_hash_is_refused(model: Path) -> None:
    with pytest.raises(OmniFedError, match="OF321"):
        build_teacher(
            TeacherSpec(kind="onnx", checkpoint=str(model), sha256="0" * 64), CONFIG.spec, image_size=(64, 64)
        )


def test_no_image_has_a_part_in_the_maps_of_another_one(tmp_path: Path) -> None:
    path = tmp_path / "mixes.onnx"
    path.write_bytes(made_model(mixes=True))
    teacher = build_teacher(TeacherSpec(kind="onnx", checkpoint=str(path)), CONFIG.spec, image_size=(64, 64))
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(teacher.predict(x).logits[:1], teacher.predict(x[:1]).logits)


@pytest.mark.parametrize("values", [{"kind": "cnn", "sha256": "0" * 64}, {"kind": "onnx"}, {"sha256": "0" * 64}])
def test_a_public_teacher_is_an_exported_model_with_its_hash(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="a public teacher is an exported model"):
        TeacherSpec(public=True, **values)
    TeacherSpec(public=True, kind="onnx", sha256="0" * 64)
