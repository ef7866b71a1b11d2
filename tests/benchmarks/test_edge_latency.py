import json
import sys
from pathlib import Path

import edge_latency
import numpy as np
import onnx
import pytest
import torch
from edge.interleaved import Times, interleave, times
from edge.networks import build
from edge.onnx_files import lived_in, macs, to_int8, to_onnx
from edge.precisions import WAYS, calibration, runner
from edge.sgemm import gflops, programs
from made_parts import make_part

from omnifed.models.base import SiteSpec
from omnifed.models.scaling import costs
from omnifed.models.spec import StudentSpec

SMALL = "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2"


def test_programs_take_turns_in_an_order_drawn_anew_each_round() -> None:
    ran: list[str] = []
    found, waited = interleave({name: lambda name=name: ran.append(name) for name in "abcd"}, 3, runs=2)
    visits = ["".join(ran[i : i + 3]) for i in range(0, len(ran), 3)]  # one warm-up and two runs each
    assert all(len(set(visit)) == 1 for visit in visits)
    rounds = [[visit[0] for visit in visits[i : i + 4]] for i in (0, 4, 8)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert {found[name].rounds for name in "abcd"} == {3}
    assert 0 <= waited <= 1


def test_the_median_over_rounds_counts() -> None:
    assert times([1.0, 2.0, 3.0, 4.0, 50.0]) == Times(3.0, pytest.approx(2 / 1.349 / 3), 5)


def test_macs_are_those_of_the_layer_list() -> None:
    spec = StudentSpec.parse("omnisegnet:compact")
    counted = macs(build("omnisegnet:compact", 2), 64)
    assert counted == pytest.approx(costs(spec, SiteSpec(3, 2), (64, 64)).macs, rel=1e-3)


def test_the_rate_of_a_product() -> None:
    # 2 * 1000^3 operations in 20 ms are 100 billion a second.
    assert gflops({"sgemm torch 1000": Times(20.0, 0.0, 1), "net|ort fp32 1": Times(1.0, 0.0, 1)}) == {
        "sgemm torch 1000": 100.0
    }


def test_every_library_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.sgemm.SIZES", (8,))
    ran = programs()
    assert sorted(ran) == ["sgemm openvino 8", "sgemm ort 8", "sgemm torch 8"]
    left, right = np.random.default_rng([8]).standard_normal((2, 8, 8), np.float32)
    for name in ("sgemm openvino 8", "sgemm ort 8"):
        np.testing.assert_allclose(ran[name]()[0], left @ right, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exported() -> tuple[torch.nn.Module, bytes]:
    network = lived_in(build(SMALL, 2))
    return network, to_onnx(network, 64)


def test_drawn_norms_leave_the_given_network_alone(exported: tuple[torch.nn.Module, bytes]) -> None:
    fresh = build(SMALL, 2)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    drawn = lived_in(fresh).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    name = next(name for name in drawn if name.endswith("running_var"))
    assert not torch.equal(drawn[name], before[name])


@pytest.mark.parametrize(("engine", "precision"), WAYS)
def test_each_way_computes_what_the_network_does(
    exported: tuple[torch.nn.Module, bytes], engine: str, precision: str
) -> None:
    network, plain = exported
    images = torch.from_numpy(np.random.default_rng([1]).standard_normal((2, 3, 64, 64), np.float32))
    model = to_int8(plain, [image[None].numpy() for image in images]) if precision == "int8" else plain
    with torch.no_grad():
        want = network(images).logits
    off = float((runner(engine, precision, model)(images).logits - want).abs().max() / want.abs().max())
    assert off < {"fp32": 1e-4, "bf16": 0.1, "int8": 0.3}[precision]
    if precision == "int8":
        assert "QuantizeLinear" in {node.op_type for node in onnx.load_from_string(model).graph.node}


def test_calibration_takes_training_images_of_each_site_in_colour() -> None:
    parts = [
        make_part("one", 1, (0, 1), [np.ones((32, 32))] * 3),
        make_part("two", 3, (0, 2), [np.ones((32, 32))] * 20),
    ]
    assert [image.shape for image in calibration(parts)] == [(1, 3, 32, 32)] * (3 + 16)


def test_of_two_graphs_the_faster_counts() -> None:
    measured = {
        "net|openvino fp32 1|resize": Times(5.0, 0.1, 3),
        "net|openvino fp32 1|convolution": Times(4.0, 0.2, 3),
        "network|openvino fp32 1|resize": Times(1.0, 0.0, 3),
    }
    assert edge_latency.latencies("net", measured) == {
        "openvino fp32 1": {"p50_ms": 4.0, "spread": 0.2, "rounds": 3, "graph": "convolution"}
    }


def test_a_whole_run_writes_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.sgemm.SIZES", (64,))
    monkeypatch.setattr(edge_latency, "WAYS", (("ort", "fp32"), ("openvino", "fp32")))
    options = ["--networks", SMALL, "--image-size", "64", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["edge_latency.py", *options])
    edge_latency.main()
    facts = json.loads((tmp_path / "latency.json").read_text())
    own = facts["networks"][SMALL]
    assert list(own["latency"]) == ["ort fp32 1", "openvino fp32 1"]
    assert own["roofline"]["ort"] == pytest.approx(
        2 * own["gmac"] / own["latency"]["ort fp32 1"]["p50_ms"] * 1000 / max(facts["sgemm_gflops"].values())
    )
    assert own["bytes"]["int8"] < own["bytes"]["fp32"] / 2
    assert min(own["peak_mib"].values()) > 20
