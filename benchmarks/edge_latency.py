"""Latency, memory, size and share of the roofline of students and rivals, in one interleaved run.

    python benchmarks/edge_latency.py --networks cmunext-s,unet,omnisegnet:compact,stem_stride=2 --out runs/bench-edge
    python benchmarks/edge_latency.py --networks ... --out runs/bench-edge --dice --data DATA

Each network is exported for one image of 256 x 256 and run by ONNX Runtime (fp32, int8) and OpenVINO (fp32, bf16, int8)
on one and two threads; by OpenVINO with x2 upsampling as it is and written as a convolution, as `omnifed export` does:
of the two the faster counts, for each network. All of them and float32 matrix products take turns, round after round;
medians over the rounds count. The roofline is the fastest of these products on one thread; a network's share of it is
2 MACs / latency / that rate. Peak memory is that of a process of its own. Run it on a quiet machine
with 1.5 GiB of memory for each network: all are loaded at once.

With ``--dice`` the trained weights of seed 0 that `edge_dice.py` left in OUT are also tested in each precision.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from edge.interleaved import Times, interleave
from edge.networks import CHANNELS, build, folder_name, split_names
from edge.onnx_files import lived_in, macs, to_int8, to_onnx
from edge.precisions import WAYS, dice_by_precision
from edge.sgemm import gflops, programs

from omnifed.devices.bench import bench
from omnifed.devices.engines import load
from omnifed.devices.machine import describe_machine
from omnifed.export.graph import upsample_by_convolution
from omnifed.files import write_atomic, write_json

CALIBRATION = 8


def export(name: str, known: argparse.Namespace) -> dict[str, Any]:
    """Writes the files of one network, unless they are there; what can be said of it without running it."""
    network = lived_in(build(name, known.classes))
    files = {
        (precision, graph): onnx_file(known.out, name, precision, graph)
        for precision, graph in product(("fp32", "int8"), ("resize", "convolution"))
    }
    if not all(file.is_file() for file in files.values()):
        shape = (CALIBRATION, 1, CHANNELS, known.image_size, known.image_size)
        images = np.random.default_rng([0]).standard_normal(shape, np.float32)
        plain = to_onnx(network, known.image_size)
        for graph, content in (("resize", plain), ("convolution", upsample_by_convolution(plain))):
            write_atomic(files["fp32", graph], content)
            write_atomic(files["int8", graph], to_int8(content, images))
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "gmac": macs(network, known.image_size) / 1e9,
        "bytes": {precision: files[precision, "resize"].stat().st_size for precision in ("fp32", "int8")},
    }


def onnx_file(out: Path, name: str, precision: str, graph: str = "resize") -> Path:
    """bf16 is the float32 file, computed otherwise."""
    return out / "onnx" / f"{folder_name(name)}.{graph}.{'int8' if precision == 'int8' else 'fp32'}.onnx"


def graphs(engine: str, precision: str) -> tuple[str, ...]:
    """How x2 upsampling is written where an engine may be faster with either."""
    return ("resize", "convolution") if engine == "openvino" and precision != "bf16" else ("resize",)


def ready(names: list[str], known: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Every network in every way, loaded: ``NETWORK|ENGINE PRECISION THREADS|GRAPH``."""
    found: dict[str, Callable[[], object]] = {}
    for name, (engine, precision) in product(names, WAYS):
        for graph, threads in product(graphs(engine, precision), known.threads):
            model = onnx_file(known.out, name, precision, graph).read_bytes()
            found[f"{name}|{engine} {precision} {threads}|{graph}"] = load(engine, model, threads, precision).infer
    return found


def latencies(name: str, measured: dict[str, Times]) -> dict[str, dict[str, Any]]:
    """Times of a network by ``ENGINE PRECISION THREADS``, of the faster graph."""
    found: dict[str, dict[str, Any]] = {}
    for key, times in measured.items():
        who, _, rest = key.partition("|")
        way, _, graph = rest.partition("|")
        if who == name and (way not in found or times.p50_ms < found[way]["p50_ms"]):
            found[way] = asdict(times) | {"graph": graph}
    return found


def peak_memory(name: str, out: Path) -> dict[str, float]:
    """Peak resident memory in MiB of a process that runs one network in one way."""
    return {
        f"{engine} {precision}": bench(
            onnx_file(out, name, precision),
            engine=engine,
            precision=precision,
            warmups=1,
            runs=5,
            seconds=(0.1, 2.0),
            accept_variation=True,
        ).peak_mib
        for engine, precision in WAYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", required=True)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-edge"))
    parser.add_argument("--dice", action="store_true", help="test the trained weights of seed 0 in each precision")
    parser.add_argument("--data", type=Path, help="folder of site folders, for --dice")
    parser.add_argument("--sites", default="isic,intraop,cxr_lungs,curvas_ct", help="as in the training, for --dice")
    known = parser.parse_args()
    names = split_names(known.networks)
    facts: dict[str, Any] = {
        "machine": describe_machine().text,
        "image_size": known.image_size,
        "classes": known.classes,
    }
    networks = {name: _said(f"export {name}", export, name, known) for name in names}
    for name, about in networks.items():
        about["peak_mib"] = _said(f"memory {name}", peak_memory, name, known.out)
    loaded = ready(names, known) | programs()
    measured, waited = interleave(loaded, known.rounds, tell=lambda turn: _say(f"round {turn} of {known.rounds}"))
    rates = gflops(measured)
    for name, about in networks.items():
        about["latency"] = latencies(name, measured)
        about["roofline"] = {
            engine: 2 * about["gmac"] / about["latency"][f"{engine} fp32 1"]["p50_ms"] * 1000 / max(rates.values())
            for engine in ("ort", "openvino")
            if 1 in known.threads
        }
    facts |= {"rounds": known.rounds, "waited": waited, "sgemm_gflops": rates, "networks": networks}
    write_json(known.out / "latency.json", facts)
    if known.dice:
        write_json(
            known.out / "precision.json", dice_by_precision(names, known.out, known.data, known.sites.split(","))
        )


def _said(text: str, function: Callable[..., Any], *arguments: Any) -> Any:
    _say(text)
    return function(*arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
