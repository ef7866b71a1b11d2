"""What a task costs at a deployed site beside its work: `python benchmarks/deployed_overhead.py [--json]`.

A real SuperLink and a real `omnifed-client` on loopback. The same finished task is asked again and again, with the
weights of a compact student both ways, so all but the work is measured: CPU seconds of all processes of the site (what
it spends idle is taken off) and the wall time from sending to arrival. The weights travel as their ~300 tensors and as
one. Target: at most 0.3 CPU s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from omnifed.processes import Child, flower, flower_env, free_port, listens
from omnifed.transport.installed import APP
from omnifed_sim.phantoms import write_preset

HERE = Path(__file__).parent
INSTEAD = """
import sys
if any("flwr-serverapp" in part for part in sys.orig_argv):
    import deployed_app
    sys.modules["omnifed_server.app"] = deployed_app
"""
"""A site serves the installed application only: so the coordinator takes the benchmark for its campaign."""
EXTRA_S = 1.5
"""Seconds that the app waits after each arrival, within the measured CPU time."""


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    data = folder / "site"
    write_preset("hospitals", folder, seed=0, image_size=64)
    (folder / "west").rename(data)
    port = free_port()
    (folder / "instead").mkdir()
    (folder / "instead" / "sitecustomize.py").write_text(INSTEAD)
    env = flower_env(folder / "flower") | {
        "OMNIFED_BENCH": str(folder),
        "PYTHONPATH": os.pathsep.join([str(folder / "instead"), str(HERE), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    link = Child("link", flower("superlink", "--port", str(port), "--insecure"), folder / "link.log", env=env)
    link.command.append("--disable-runtime-dependency-installation")
    scripts = Path(sys.executable).parent
    client = Child(
        "client",
        [
            *(str(scripts / "omnifed-client"), "--site", "west", "--data", str(data), "--state", str(folder / "state")),
            *("--server", f"127.0.0.1:{port}", "--insecure"),
        ],
        folder / "client.log",
        env={"OMP_NUM_THREADS": "1"},
    )
    (folder / "app").mkdir()
    (folder / "app" / "pyproject.toml").write_text(APP)
    (folder / "flower").mkdir()
    (folder / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    try:
        link.start()
        while not listens("127.0.0.1", port):
            time.sleep(0.2)
        client.start()
        settings = {"site": "west", "channels": 1, "classes": 5, "repeats": repeats, "cpu_of": [client.pid]}
        (folder / "settings.json").write_text(json.dumps(settings))
        subprocess.run(
            ["flwr", "run", str(folder / "app"), "here"], check=True, env=os.environ | env, capture_output=True
        )
        until = time.monotonic() + 300
        while not (folder / "result.json").is_file():
            if time.monotonic() > until:
                raise SystemExit(f"no result: see {folder}\n{link.tail(20)}\n{client.tail(20)}")
            time.sleep(0.5)
    finally:
        client.stop()
        link.stop()
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    idle = found["idle_cpu_per_s"]
    for name, runs in found.pop("runs").items():
        found[f"{name}_wall_s"] = statistics.median(wall for wall, _ in runs)
        found[f"{name}_cpu_s"] = statistics.median(cpu - idle * (wall + EXTRA_S) for wall, cpu in runs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.repeats)
    if options.json:
        print(json.dumps({"machine": platform.processor(), "cores": os.cpu_count(), **found}))
        return
    print(f"{os.cpu_count()} cores, weights of {found['parameters']:,} parameters both ways")
    print(
        f"CPU {found['many_cpu_s']:.2f} s a task ({found['tensors']} tensors), {found['one_cpu_s']:.2f} s (1 tensor); "
        f"wall {found['many_wall_s']:.2f} s, {found['one_wall_s']:.2f} s; "
        f"idle {found['idle_cpu_per_s']:.3f} CPU s a second"
    )


if __name__ == "__main__":
    main()
