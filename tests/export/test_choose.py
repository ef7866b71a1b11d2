"""The choice from figures made by hand, what a variant needs, and Dice against float32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.data.prepared import Prepared
from omnifed.devices.measurement import Measurement
from omnifed.errors import OmniFedError
from omnifed.export import choose as module
from omnifed.export.choose import ORDER, Row, agreement, choose, measure, variants
from omnifed.export.session import Session
from omnifed.models.base import SiteSpec

from .conftest import images


def row(precision: str, engine: str, ms: float, loss: float = 0.0, delta: float = 0.0, variation: float = 0.0) -> Row:
    return Row(
        precision=precision,
        engine=engine,
        p50_ms=ms,
        p95_ms=ms,
        variation=variation,
        peak_mib=100,
        bytes=1,
        max_delta=delta,
        agreement=1,
        dice=0.9,
        loss=loss,
        loss_low=None,
        loss_high=None,
    )


def test_the_fastest_within_the_loss():
    rows = [row("fp32", "ort", 40), row("bf16", "openvino", 16, 0.1), row("int8", "openvino", 10, 0.6)]
    assert choose(rows, 0.5, 1e-4).variant == ("bf16", "openvino")
    assert choose(rows, 0.6, 1e-4).variant == ("int8", "openvino")
    assert choose(rows, 0.0, 1e-4).variant == ("fp32", "ort")


def test_ties_go_to_the_simpler():
    rows = [row("int8", "openvino", 10.0), row("fp32", "openvino", 10.4), row("fp32", "ort", 10.6)]
    assert choose(rows, 0.5, 1e-4).variant == ("fp32", "openvino")  # 10.6 is beyond 5 % of 10
    noisy = [*rows[:2], row("fp32", "ort", 10.6, variation=0.07)]
    assert choose(noisy, 0.5, 1e-4).variant == ("fp32", "ort")
    # Measurements that are not to be believed make no tie of everything.
    assert choose([rows[0], row("fp32", "ort", 12, variation=3)], 0.5, 1e-4).variant == ("int8", "openvino")


def test_float32_is_held_by_its_logits_and_nothing_may_be_left():
    rows = [row("fp32", "ort", 20), row("fp32", "openvino", 10, delta=0.01)]
    assert choose(rows, 0.5, 0.001).engine == "ort"
    assert choose(rows, 0.5, 0.01).engine == "openvino"
    assert choose([row("int8", "ort", 1, 0.7)], 0.5, 1e-4) is None
    assert choose([row("int8", "ort", 1, float("nan"))], 0.5, 1e-4) is None


@given(st.permutations([row(p, e, 10 + i, loss=0.2 * i) for i, (p, e) in enumerate(ORDER)]), st.floats(0, 1))
def test_the_order_of_the_rows_does_not_matter(rows: list[Row], most: float):
    chosen = choose(rows, most, 1e-4)
    assert chosen == choose(sorted(rows, key=lambda r: r.p50_ms), most, 1e-4)
    assert chosen.precision == "fp32" or chosen.loss <= most


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch):
    """An OpenVINO on a processor with the given types."""

    def make(*types: str, installed: bool = True) -> None:
        monkeypatch.setattr(module, "openvino", lambda: None)
        monkeypatch.setattr(module, "openvino_types", lambda: list(types))
        monkeypatch.setattr(module, "has_openvino", lambda: installed)

    return make


def test_what_is_measured(able):
    able("FP32", "INT8", "BF16")
    assert variants("auto", "auto") == ORDER
    assert variants("auto", "ort") == (("fp32", "ort"), ("int8", "ort"))
    assert variants("bf16", "auto") == (("fp32", "ort"), ("fp32", "openvino"), ("bf16", "openvino"))
    assert variants("fp32", "openvino") == (("fp32", "openvino"),)
    able("FP32", "INT8")
    assert ("bf16", "openvino") not in variants("auto", "auto")
    able(installed=False)
    assert variants("int8", "auto") == (("fp32", "ort"), ("int8", "ort"))


def test_bfloat16_that_nothing_computes_is_refused(able):
    able("FP32", "INT8")
    with pytest.raises(OmniFedError, match="OF608") as caught:
        variants("bf16", "auto")
    assert "FP32, INT8" in caught.value.seen
    able("BF16", installed=False)
    for engine in ("auto", "ort"):
        with pytest.raises(OmniFedError, match="OF608"):
            variants("bf16", engine)


def cases(masks: np.ndarray, pixels: np.ndarray, *, has_mask: bool = True, classes: int = 3) -> Prepared:
    n = len(masks)
    return Prepared(
        spec=SiteSpec(1, classes),
        images=pixels.astype(np.float16),
        masks=masks if has_mask else np.full_like(masks, 255),
        has_mask=np.full(n, has_mask),
        patients=tuple("abcdefgh"[:n]),
        ids=tuple("abcdefgh"[:n]),
        keys=tuple("abcdefgh"[:n]),
        spacing=np.full((n, 2), np.nan, np.float32),
        present=np.ones(classes, bool),
    )


def test_agreement_by_hand():
    before, after = np.zeros((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)
    before[0, 0], after[0, 0, 0] = 1, 1  # 2 pixels, 1 of them found: 2 / 3
    before[1, 0, 0], after[1, 0, 0] = 1, 1
    after[1, 1, 1] = 2  # the class is in one of the two: (1 + 0) / 2
    got = agreement(after, before, cases(before, np.zeros((3, 1, 2, 2))))
    assert got[:2].tolist() == pytest.approx([2 / 3, 0.5])
    assert np.isnan(got[2])


def timed(model: bytes, engine: str, precision: str) -> Measurement:
    return Measurement(
        network="made", size=(64, 32), warmups=1, runs=5, p50_ms=7, p95_ms=8, cpu_ms=7, variation=0, load_ms=1,
        peak_mib=50,
    )  # fmt: skip


def test_a_row_says_what_the_models_do_to_the_cases(exported, config):
    pixels = images(4, config, seed=30).numpy()
    model = exported.path.read_bytes()
    truth = Session(model).logits(pixels.astype(np.float16).astype(np.float32)).argmax(1).astype(np.uint8)
    (same,) = measure({("fp32", "ort"): model}, model, cases(truth, pixels), timing=timed)
    assert (same.dice, same.loss, same.agreement, same.max_delta) == (1.0, 0.0, 1.0, 0.0)
    assert (same.p50_ms, same.peak_mib, same.bytes) == (7, 50, len(model))
    assert (same.loss_low, same.loss_high) == (0.0, 0.0)
    (blind,) = measure({("fp32", "ort"): model}, model, cases(truth, pixels, has_mask=False), timing=timed)
    assert (blind.dice, blind.loss) == (None, 0.0)


def test_a_model_that_finds_another_class_loses_all_of_it(exported, config):
    """The head's rows are exchanged: each class becomes the next one."""
    import onnx
    from onnx import numpy_helper

    pixels = images(2, config, seed=31).numpy()
    proto = onnx.load(exported.path)
    proto.metadata_props.pop()  # the seal
    head = next(node for node in proto.graph.node if "logits" in node.output)
    for tensor in proto.graph.initializer:
        if tensor.name in head.input:
            rolled = np.ascontiguousarray(np.roll(numpy_helper.to_array(tensor), 1, axis=0))
            tensor.CopyFrom(numpy_helper.from_array(rolled, tensor.name))
    model = exported.path.read_bytes()
    truth = Session(model).logits(pixels.astype(np.float16).astype(np.float32)).argmax(1).astype(np.uint8)
    (wrong,) = measure({("int8", "ort"): proto.SerializeToString()}, model, cases(truth, pixels), timing=timed)
    assert (wrong.dice, wrong.loss, wrong.agreement) == (0.0, 100.0, 0.0)
    assert choose([wrong], 0.5, 1e-4) is None
