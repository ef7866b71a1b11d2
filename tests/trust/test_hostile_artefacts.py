"""Files of somebody who wants a hospital to run, load or trust what it should not: none of them is accepted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from made_models import Federation, card, content, proto
from onnx import TensorProto, helper, numpy_helper

from omnifed.errors import OmniFedError
from omnifed.export.card import KEY
from omnifed.export.limits import MOST_NODES, refuse_strange
from omnifed.export.seal import sealed
from omnifed.export.session import load, read_model
from omnifed.export.verification import read_verified, verify_model
from omnifed.files import write_atomic
from omnifed.models.base import SiteSpec
from omnifed.states import MOST_HEAD, read_arrays, read_state, write_state
from omnifed.teachers.base import Teacher
from omnifed.teachers.checkpoints import sam_state
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec
from omnifed.trust.anchor import Anchor, find_anchor
from omnifed.trust.authority import revoke, rotate
from omnifed.trust.manifest import Manifest
from omnifed.trust.roster import ROSTER
from omnifed.trust.signing import Signed, SigningKey


class Payload:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"weights": Payload(mark)})


def torch_zip(mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"weights": Payload(mark)}, stream)
    return stream.getvalue()


def zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data.pkl", bytes(2**22))
    return stream.getvalue()


# Models ---------------------------------------------------------------------------------------------------------------


def external(location: str) -> onnx.ModelProto:
    made = proto()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return made


def custom_node() -> onnx.ModelProto:
    made = proto()
    made.graph.node[0].domain = "com.attacker"
    return made


def custom_opset() -> onnx.ModelProto:
    made = proto()
    made.opset_import.add(domain="com.microsoft", version=1)
    return made


def with_function() -> onnx.ModelProto:
    made = proto()
    made.functions.add(name="Conv", domain="")
    return made


def with_training() -> onnx.ModelProto:
    made = proto()
    made.training_info.add()
    return made


def with_loop() -> onnx.ModelProto:
    made = proto()
    body = helper.make_graph([], "body", [], [])
    made.graph.node.append(helper.make_node("Loop", ["n", "c"], ["z"], body=body))
    return made


def with_sparse() -> onnx.ModelProto:
    made = proto()
    giant = made.graph.sparse_initializer.add(dims=[10**6, 10**6])
    giant.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    return made


def with_giant() -> onnx.ModelProto:
    made = proto()
    made.graph.initializer[0].dims[:] = [2**20, 2**20]
    return made


def with_negative() -> onnx.ModelProto:
    made = proto()
    made.graph.initializer[0].dims[:] = [-1, 0]
    return made


def hidden_giant() -> onnx.ModelProto:
    made = proto()
    giant = TensorProto(data_type=TensorProto.FLOAT, dims=[2**40])
    made.graph.node.append(helper.make_node("Constant", [], ["c"], value=giant))
    return made


def crowd() -> onnx.ModelProto:
    made = proto()
    made.graph.node.extend([helper.make_node("Relu", ["a"], ["b"])] * (MOST_NODES + 1))
    return made


def two_graphs() -> bytes:
    return proto().SerializeToString() + proto(5.0).SerializeToString()


def varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def behind_a_long_tag(made: onnx.ModelProto) -> bytes:
    """The graph's field number 2^29 too high: ONNX Runtime's parser drops the upper bits and finds the graph."""
    graph = made.graph.SerializeToString()
    made.ClearField("graph")
    return varint((7 << 3 | 2) + 2**32) + varint(len(graph)) + graph + made.SerializeToString()


def with_entry(key: str, value: str, made: onnx.ModelProto | None = None) -> onnx.ModelProto:
    made = made or proto()
    made.metadata_props.add(key=key, value=value)
    return made


def with_card_text(text: str) -> onnx.ModelProto:
    made = proto()
    made.metadata_props[0].value = text
    return made


def cut(share: float) -> bytes:
    whole = content()
    return whole[: int(len(whole) * share)]


def changed(old: bytes, new: bytes) -> bytes:
    whole = content()
    assert whole.count(old) == 1
    return whole.replace(old, new)


GIANT_LABELS = {0: "background"} | dict.fromkeys(range(1, 300), "x")
MODELS: dict[str, Callable[[Path], bytes]] = {
    "a pickle renamed .onnx": pickled,
    "a torch zip renamed .onnx": torch_zip,
    "a zip bomb": lambda mark: zip_bomb(),
    "external data, absolute": lambda mark: sealed(external("/etc/passwd").SerializeToString()),
    "external data, relative": lambda mark: sealed(external("weights.bin").SerializeToString()),
    "external data, ../": lambda mark: sealed(external("../../state/weights.bin").SerializeToString()),
    "an operator of another domain": lambda mark: sealed(custom_node().SerializeToString()),
    "an opset of another domain": lambda mark: sealed(custom_opset().SerializeToString()),
    "a function of its own": lambda mark: sealed(with_function().SerializeToString()),
    "a training graph": lambda mark: sealed(with_training().SerializeToString()),
    "a loop": lambda mark: sealed(with_loop().SerializeToString()),
    "a sparse giant": lambda mark: sealed(with_sparse().SerializeToString()),
    "a declared giant": lambda mark: sealed(with_giant().SerializeToString()),
    "a giant in a node": lambda mark: sealed(hidden_giant().SerializeToString()),
    "a negative side": lambda mark: sealed(with_negative().SerializeToString()),
    "more nodes than any network": lambda mark: sealed(crowd().SerializeToString()),
    "a graph behind a long tag": lambda mark: sealed(behind_a_long_tag(external("weights.bin"))),
    "two graphs": lambda mark: sealed(two_graphs()),
    "two cards": lambda mark: sealed(with_entry(KEY, card(channels=3).model_dump_json()).SerializeToString()),
    "two check sums": lambda mark: sealed(content()),
    "a card of 2 MB": lambda mark: sealed(with_card_text(" " * 2**21).SerializeToString()),
    "a card nested 100,000 deep": lambda mark: sealed(with_card_text("[" * 10**5).SerializeToString()),
    "a card that is no JSON": lambda mark: sealed(with_card_text("{").SerializeToString()),
    "a card of an image of 10^10 pixels": lambda mark: sealed(
        with_card_text(card().model_dump_json().replace("[32,32]", "[100000,100000]")).SerializeToString()
    ),
    "a card with escape codes": lambda mark: sealed(
        with_card_text(card().model_dump_json().replace('"disc"', '"\\u001b]0;x\\u0007"')).SerializeToString()
    ),
    "a card of 300 labels": lambda mark: sealed(
        with_card_text(
            card().model_dump_json().replace('{"0":"background","1":"disc"}', json.dumps(GIANT_LABELS))
        ).SerializeToString()
    ),
    "another label's name": lambda mark: changed(b'"disc"', b'"cyst"'),
    "nothing": lambda mark: b"",
    "cut in the graph": lambda mark: cut(0.1),
    "cut in the middle": lambda mark: cut(0.5),
    "cut in the check sum": lambda mark: content()[:-1],
    "something appended": lambda mark: content() + b"\x32\x01x",
    "nested 100,000 deep": lambda mark: b"\x3a\x80\x80\x80\x80\x08" * 1000,
    "text": lambda mark: b"#!/bin/sh\nrm -rf /\n" * 50,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_refused_by_all_that_read_models(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for there in ("weights.bin", "state/weights.bin"):
        write_atomic(tmp_path / there, np.zeros(2, np.float32).tobytes())
    mark = tmp_path / "ran"
    path = tmp_path / "model.onnx"
    path.write_bytes(MODELS[name](mark))
    verdict = verify_model(path)
    assert verdict.result == "refused", verdict
    with pytest.raises(OmniFedError):
        load(path, engine="ort")
    with pytest.raises(OmniFedError):
        teacher_of(path)
    assert not mark.exists()


def teacher_of(path: Path) -> Teacher:
    return build_teacher(TeacherSpec(kind="onnx", checkpoint=str(path)), SiteSpec(1, 2), image_size=(32, 32))


def test_the_untouched_model_is_taken_by_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content())
    assert load(path).classes == 2
    assert teacher_of(path) is not None
    assert verify_model(path).result == "intact"  # unsigned
    refuse_strange(content())


def test_a_model_without_check_sum_and_manifest_is_not_even_intact(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(proto().SerializeToString())
    assert verify_model(path).checks[-1].code == "OF871"


def test_the_long_tag_hides_nothing_from_the_runtime() -> None:
    import onnxruntime

    # The reason for the rule: the runtime takes such a file, graph and all.
    onnxruntime.InferenceSession(behind_a_long_tag(proto()), providers=["CPUExecutionProvider"])


# What is no file ------------------------------------------------------------------------------------------------------


def make_link(path: Path) -> None:
    (path.parent / "real.onnx").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to("real.onnx")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_hole(path: Path) -> None:
    """2 GiB that take no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(2**31)


def make_nothing(path: Path) -> None:
    path.unlink()


def make_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("change", [make_link, make_folder, make_pipe, make_hole, make_nothing, make_device])
@pytest.mark.parametrize("which", ["model", "beside"])
def test_what_is_no_file_of_its_own_is_not_verified(change: Callable[[Path], None], which: str, tmp_path: Path) -> None:
    made = Federation(tmp_path)
    change(getattr(made, which))
    verdict = verify_model(made.model, anchor=find_anchor(kit=made.south.folder))
    assert verdict.result == "refused"
    assert verdict.checks[-1].code in ("OF870", "OF872")
    if which == "model" and change is not make_link:
        with pytest.raises(OmniFedError, match="OF602"):
            read_model(made.model)


# Manifests ------------------------------------------------------------------------------------------------------------


def anchor_of(made: Federation) -> Anchor:
    anchor = find_anchor(roster=made.roster, root=made.root)
    assert anchor is not None
    return anchor


def resigned(made: Federation, signer: SigningKey, context: str = "manifest", **changes: object) -> None:
    """The manifest with other fields, signed anew."""
    body = Manifest.model_validate_json(Signed.read(made.beside.read_bytes(), "").body)
    made.beside.write_bytes(Signed.seal(context, body.model_copy(update=changes), signer).to_json())


def unsigned(made: Federation) -> None:
    made.beside.unlink()


def other_model(made: Federation) -> None:
    made.model.write_bytes(content(2.0))


def other_manifest(made: Federation) -> None:
    first = made.model.read_bytes()
    made.sign(made.north, content(2.0))
    made.model.write_bytes(first)


def by_nobody(made: Federation) -> None:
    key = SigningKey.generate()
    resigned(made, key, key=key.public)


def by_the_coordinator(made: Federation) -> None:
    resigned(made, made.coordinator.key, key=made.coordinator.key.public)


def in_anothers_name(made: Federation) -> None:
    resigned(made, made.south.key, key=made.south.key.public)


def with_anothers_key_named(made: Federation) -> None:
    resigned(made, made.south.key)


def of_another_federation(made: Federation) -> None:
    other = Federation(made.folder / "other", "other-net")
    made.sign(other.north)


def of_a_namesake(made: Federation) -> None:
    other = Federation(made.folder / "other", "liver-net")
    made.sign(other.north)


def when_revoked(made: Federation) -> None:
    revoke(made.coordinator.folder, "north", now=made.signed - timedelta(hours=1))


def before_it_was_a_member(made: Federation) -> None:
    made.sign(made.north, now=made.then - timedelta(days=30))


def in_the_future(made: Federation) -> None:
    made.sign(made.north, now=datetime.now(UTC) + timedelta(days=1))


def with_another_context(made: Federation) -> None:
    resigned(made, made.north.key, context=ROSTER)


def a_roster_for_a_manifest(made: Federation) -> None:
    shutil.copy(made.roster, made.beside)


def a_kit_for_a_manifest(made: Federation) -> None:
    shutil.copy(made.south.folder / "kit.json", made.beside)


def another_size(made: Federation) -> None:
    resigned(made, made.north.key, bytes=1)


def another_card(made: Federation) -> None:
    resigned(made, made.north.key, card_sha256="0" * 64)


def reformatted(made: Federation) -> None:
    made.beside.write_text(json.dumps(json.loads(made.beside.read_text())))


def key_in_capitals(made: Federation) -> None:
    values = json.loads(made.beside.read_text())
    made.beside.write_text(json.dumps(values | {"key": values["key"].upper()}, indent=1))


def spare_bits_of_the_signature(made: Federation) -> None:
    signed = Signed.read(made.beside.read_bytes(), "")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = letters[letters.index(signed.signature[85]) + 1]
    made.beside.write_bytes(signed.model_copy(update={"signature": signed.signature[:85] + last + "=="}).to_json())


def a_field_more(made: Federation) -> None:
    signed = Signed.read(made.beside.read_bytes(), "")
    body = json.dumps(json.loads(signed.body) | {"approved": True})
    made.beside.write_bytes(signed.model_copy(update={"body": body}).to_json())


def huge_manifest(made: Federation) -> None:
    made.beside.write_bytes(made.beside.read_bytes() + b" " * 2**17)


def pickled_manifest(made: Federation) -> None:
    made.beside.write_bytes(pickled(made.folder / "ran"))


MANIFESTS = {
    change.__name__: change
    for change in (
        unsigned,
        other_model,
        other_manifest,
        by_nobody,
        by_the_coordinator,
        in_anothers_name,
        with_anothers_key_named,
        of_another_federation,
        of_a_namesake,
        when_revoked,
        before_it_was_a_member,
        in_the_future,
        with_another_context,
        a_roster_for_a_manifest,
        a_kit_for_a_manifest,
        another_size,
        another_card,
        reformatted,
        key_in_capitals,
        spare_bits_of_the_signature,
        a_field_more,
        huge_manifest,
        pickled_manifest,
    )
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_is_refused(name: str, tmp_path: Path) -> None:
    made = Federation(tmp_path)
    assert verify_model(made.model, anchor=anchor_of(made)).result == "verified"
    MANIFESTS[name](made)
    anchor = anchor_of(made)
    verdict = verify_model(made.model, anchor=anchor)
    assert verdict.result == "refused", verdict
    with pytest.raises(OmniFedError, match=verdict.checks[-1].code):
        read_verified(made.model, anchor)
    assert not (tmp_path / "ran").exists()


def test_a_manifest_of_an_expired_key_is_refused(tmp_path: Path) -> None:
    made = Federation(tmp_path)
    rotate(made.coordinator.folder, now=made.then + timedelta(days=364))
    for days, result in ((364, "verified"), (366, "refused")):
        made.sign(made.north, now=made.then + timedelta(days=days))
        now = made.then + timedelta(days=370)
        anchor = find_anchor(roster=made.roster, root=made.root, now=now)
        verdict = verify_model(made.model, anchor=anchor, now=now)
        assert verdict.result == result, verdict
    assert "when it was expired" in verdict.checks[-1].detail


@pytest.mark.parametrize("field", Manifest.model_fields)
def test_no_field_of_a_manifest_can_be_edited(field: str, tmp_path: Path) -> None:
    made = Federation(tmp_path)
    signed = Signed.read(made.beside.read_bytes(), "")
    body = json.loads(signed.body)
    was = body[field]
    if isinstance(was, str):
        body[field] = was[:-1] + ("0" if was[-1] != "0" else "1")
    else:
        body[field] = was + 1 if isinstance(was, int) else {**was, "epsilon": 0.1}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    made.beside.write_bytes(signed.model_copy(update={"body": text}).to_json())
    for anchor in (anchor_of(made), None):
        assert verify_model(made.model, anchor=anchor).result == "refused"


def test_none_of_1000_flipped_bits_of_model_and_manifest_is_accepted(tmp_path: Path) -> None:
    made = Federation(tmp_path)
    anchor = anchor_of(made)
    whole = {path: path.read_bytes() for path in (made.model, made.beside)}
    rng = np.random.default_rng([870])
    accepted = []
    for turn in range(1000):
        path = (made.model, made.beside)[turn % 2]
        bit = int(rng.integers(8 * len(whole[path])))
        bad = bytearray(whole[path])
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        if verify_model(made.model, anchor=anchor).result != "refused":
            accepted.append((path.name, bit))
        path.write_bytes(whole[path])
    assert accepted == []
    assert verify_model(made.model, anchor=anchor).result == "verified"


def test_nothing_of_an_unsigned_model_is_parsed_where_a_signature_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Federation(tmp_path)
    other_model(made)
    monkeypatch.setattr("omnifed.export.verification.metadata", None)
    monkeypatch.setattr("omnifed.export.verification.refuse_external_data", None)
    with pytest.raises(OmniFedError, match="OF871"):
        read_verified(made.model, anchor_of(made))


# States and checkpoints -----------------------------------------------------------------------------------------------


def state(head: object, body: bytes = b"1234", meta: object = '{"a": 1}') -> bytes:
    if isinstance(head, dict):
        head = {"__metadata__": {"json": meta}, **head}
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: str = "F32", shape: tuple[int, ...] = (1,), offsets: tuple[int, int] = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


A = json.dumps(entry()).encode()
STATES: dict[str, Callable[[Path], bytes]] = {
    "a pickle renamed .safetensors": pickled,
    "a torch zip renamed .safetensors": torch_zip,
    "a zip bomb": lambda mark: zip_bomb(),
    "a head of 2^63 bytes": lambda mark: struct.pack("<Q", 2**63) + b"{}",
    "a head above the limit": lambda mark: struct.pack("<Q", MOST_HEAD + 1) + b" " * 64,
    "a head nested 100,000 deep": lambda mark: state(b"[" * 10**5),
    "metadata nested 100,000 deep": lambda mark: state({"a": entry()}, meta="[" * 10**5),
    "metadata that are no text": lambda mark: state({"a": entry()}, meta=1),
    "no metadata": lambda mark: state(b'{"a":' + A + b"}"),
    "a name twice": lambda mark: state(b'{"__metadata__":{"json":"{}"},"a":' + A + b',"a":' + A + b"}"),
    "a metadata key twice": lambda mark: state(b'{"__metadata__":{"json":"{}","json":"[]"},"a":' + A + b"}"),
    "overlapping tensors": lambda mark: state({"a": entry(), "b": entry()}),
    "a hole": lambda mark: state({"a": entry(offsets=(4, 8))}, b"12345678"),
    "a tensor beyond the end": lambda mark: state({"a": entry(shape=(2,), offsets=(0, 8))}),
    "a negative offset": lambda mark: state({"a": entry(offsets=(-4, 0))}),
    "bytes that no tensor claims": lambda mark: state({"a": entry()}, b"12345678"),
    "a size that overflows": lambda mark: state({"a": entry(shape=(2**62, 2**62))}),
    "an empty giant": lambda mark: state({"a": entry(shape=(2**62, 0), offsets=(0, 0))}, b""),
    "a hundred axes": lambda mark: state({"a": entry(shape=(1,) * 100)}),
    "a type that does not exist": lambda mark: state({"a": entry("F33")}),
    "a type that numpy lacks": lambda mark: state({"a": entry("F8_E4M3", (4,))}),
    "a type that is a list": lambda mark: state({"a": entry() | {"dtype": []}}),
    "a tensor that is a number": lambda mark: state({"a": 1}),
    "nothing": lambda mark: b"",
    "cut in the length": lambda mark: state({"a": entry()})[:5],
    "cut in the head": lambda mark: state({"a": entry()})[:40],
    "cut in the tensors": lambda mark: state({"a": entry()})[:-1],
}


@pytest.mark.parametrize("name", STATES)
def test_a_hostile_state_is_refused(name: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "x.safetensors"
    path.write_bytes(STATES[name](mark))
    with pytest.raises(OmniFedError, match="OF104"):
        read_state(path)
    assert not mark.exists()


@pytest.mark.parametrize("change", [make_folder, make_pipe, make_nothing, make_device])
def test_what_is_no_file_is_no_state(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(state({"a": entry()}))
    assert read_arrays(path)[0]["a"].shape == (1,)
    change(path)
    with pytest.raises(OmniFedError, match="OF104"):
        read_arrays(path)


def test_a_whole_state_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path / "x", {"a": np.arange(3, dtype=np.int64), "b": np.zeros((0, 2), bool)}, {"n": 1})
    arrays, meta = read_state(tmp_path / "x")
    assert (arrays["a"].tolist(), arrays["b"].shape, meta) == ([0, 1, 2], (0, 2), {"n": 1})


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("made", [pickled, torch_zip, lambda mark: zip_bomb(), lambda mark: b""])
def test_a_hostile_checkpoint_is_refused_with_and_without_its_hash(
    made: Callable[[Path], bytes], tmp_path: Path
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pth"
    path.write_bytes(made(mark))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(OmniFedError, match="OF322"):
        sam_state(TeacherSpec(kind="sam", checkpoint=str(path), sha256=digest))
    with pytest.raises(OmniFedError, match="OF321"):
        sam_state(TeacherSpec(kind="sam", checkpoint=str(path)))
    assert not mark.exists()


def test_there_are_at_least_thirty_kinds() -> None:
    assert len(MODELS) + len(MANIFESTS) + len(STATES) >= 80
