import hashlib
import io
import pickle
import stat
from pathlib import Path

import pytest
import torch

from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.teachers.checkpoints import PUBLISHED, sam_state
from omnifed.teachers.network import NetworkTeacher
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.sam_network import sam
from omnifed.teachers.spec import TeacherSpec


def saved(path: Path, value: object) -> TeacherSpec:
    torch.save(value, path)
    return TeacherSpec(kind="sam", checkpoint=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def code_of(error: pytest.ExceptionInfo[OmniFedError]) -> str:
    return error.value.code


def test_the_first_use_imports_and_later_ones_need_the_pth_no_more(tmp_path: Path) -> None:
    state = {"image_encoder.a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.float16)}
    spec = saved(tmp_path / "w.pth", state)
    assert torch.equal(sam_state(spec)["image_encoder.a"], state["image_encoder.a"])
    (imported,) = tmp_path.glob("w.pth.*.safetensors")
    assert imported.name == f"w.pth.{spec.sha256[:16]}.safetensors"
    (tmp_path / "w.pth").unlink()
    again = sam_state(spec)
    assert torch.equal(again["image_encoder.a"], state["image_encoder.a"])
    assert again["half"].dtype == torch.float32


def test_a_damaged_import_is_made_again(tmp_path: Path) -> None:
    spec = saved(tmp_path / "w.pth", {"a": torch.ones(3)})
    sam_state(spec)
    (imported,) = tmp_path.glob("*.safetensors")
    whole = imported.read_bytes()
    imported.write_bytes(whole[:-4])
    assert sam_state(spec)["a"].tolist() == [1, 1, 1]
    assert imported.read_bytes() == whole


def test_a_folder_that_cannot_be_written_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = saved(tmp_path / "w.pth", {"a": torch.ones(3)})

    def full(*_: object, **__: object) -> None:
        raise OmniFedError("OF103", "no space")

    monkeypatch.setattr("omnifed.teachers.checkpoints.write_state", full)
    assert sam_state(spec)["a"].tolist() == [1, 1, 1]
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_missing_checkpoint_says_where_to_put_it_and_its_hash(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError) as error:
        sam_state(TeacherSpec(kind="sam", variant="vit_l"), tmp_path)
    assert code_of(error) == "OF320"
    assert str(tmp_path / "sam_vit_l_0b3195.pth") in str(error.value)
    assert PUBLISHED["vit_l"].sha256 in error.value.remedy
    assert str(tmp_path) not in error.value.public


def test_another_hash_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"not even a pickle")
    with pytest.raises(OmniFedError) as error:
        sam_state(TeacherSpec(kind="sam"), tmp_path)
    assert code_of(error) == "OF321"


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(self.target),))

    def __init__(self, target: Path) -> None:
        self.target = str(target)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"a": Payload(mark)}, path, _use_new_zipfile_serialization=not legacy)
    spec = TeacherSpec(kind="sam", checkpoint=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(OmniFedError) as error:
        sam_state(spec)
    assert code_of(error) == "OF322"
    assert not mark.exists()
    pickle.load(io.BytesIO(pickle.dumps(Payload(mark))))  # the payload does work: the refusal is what stopped it
    assert mark.exists()


@pytest.mark.parametrize("value", [torch.ones(2), {"a": 1}, [torch.ones(1)]])
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(OmniFedError) as error:
        sam_state(saved(tmp_path / "w.pth", value))
    assert code_of(error) == "OF322"


def test_a_truncated_checkpoint_with_the_stated_hash_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "w.pth", {"a": torch.ones(1000)})
    path = tmp_path / "w.pth"
    path.write_bytes(path.read_bytes()[:2000])
    spec = TeacherSpec(kind="sam", checkpoint=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(OmniFedError) as error:
        sam_state(spec)
    assert code_of(error) == "OF322"


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    spec = saved(tmp_path / "w.pth", {"image_encoder.patch_embed.proj.weight": torch.zeros(4, 3, 16, 16)})
    with pytest.raises(OmniFedError) as error:
        build_teacher(spec, SiteSpec(1, 2), image_size=(64, 64))
    assert code_of(error) == "OF323"


@pytest.mark.slow
def test_vit_b_builds_from_a_pth_of_the_stock_architecture_and_predicts_at_224(tmp_path: Path) -> None:
    """Stock SAM with random weights stands for Meta's file, which is not at hand."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        stock = sam.Sam(
            sam.ImageEncoderViT(
                depth=12,
                embed_dim=768,
                num_heads=12,
                use_rel_pos=True,
                window_size=14,
                global_attn_indexes=(2, 5, 8, 11),
            ),
            sam.PromptEncoder(256, (64, 64), (1024, 1024), 16),
            sam.MaskDecoder(transformer_dim=256, transformer=sam.TwoWayTransformer(2, 256, 8, 2048)),
        )
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.empty(v.shape).uniform_(-0.03, 0.03, generator=generator) for k, v in stock.state_dict().items()}
    spec = saved(tmp_path / "random_vit_b.pth", state)
    teacher = build_teacher(spec, SiteSpec(3, 5), image_size=(224, 224))
    assert isinstance(teacher, NetworkTeacher)
    network = teacher.network
    assert torch.equal(
        network.state_dict()["image_encoder.blocks.3.mlp.lin1.weight"], state["image_encoder.blocks.3.mlp.lin1.weight"]
    )
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert round(trained / 1e6, 2) == 4.21
    out = teacher.predict(torch.zeros(1, 3, 224, 224))
    assert out.logits.shape == (1, 5, 56, 56)
    assert out.features["bottleneck"].shape == (1, 256, 14, 14)
    assert torch.isfinite(out.logits).all()
    weights = tmp_path / "teacher.safetensors"
    teacher.save(weights, bytes(32))
    assert stat.S_IMODE(weights.stat().st_mode) == 0o600
