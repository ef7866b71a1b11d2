"""What a round costs more when nobody sees an update: `private` against `mean`, interleaved in one run.

    python benchmarks/private_overhead.py                        real processes on loopback, with identities and TLS
    python benchmarks/private_overhead.py --in-process           one process, one site after the other
    python benchmarks/private_overhead.py --repeats 1 --steps 2  a look at whether it runs

Six phantom sites of six modalities, a compact student, rounds of `mean` and `private` in turns: the same training, from
the same weights. The three exchanges cost the same seconds however long the training is, so both are shown: the seconds
that a round takes longer, and the ratio, for which a round should take 40 s or more, as a short one at a hospital does.
All sites share this machine's cores, with one thread each. Target: the median of the paired ratios at most 1.15.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from omnifed.data.prepare import prepare
from omnifed.data.site_folder import load_site
from omnifed.files import write_json
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import AggregationSpec
from omnifed.processes import free_port
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed_client.executor import SiteExecutor
from omnifed_server.arm import ArmConfig
from omnifed_server.federation_file import FederationConfig
from omnifed_server.rounds import OnEvent, run_arm
from omnifed_sim.phantoms import write_preset

HERE = Path(__file__).parent
RESULT = "overhead.json"
STUDENT = StudentSpec(alpha=0.62, beta=0.54, stem_stride=2)
INSTEAD = """
import sys, types
def run_campaign(*arguments):
    del sys.modules["omnifed_server.campaign"]
    from private_overhead import campaign
    campaign(*arguments)
if any("flwr-serverapp" in part for part in sys.orig_argv):
    sys.modules["omnifed_server.campaign"] = types.ModuleType("omnifed_server.campaign")
    sys.modules["omnifed_server.campaign"].run_campaign = run_campaign
"""
"""The coordinator's process takes the benchmark for its campaign; the sites are those of any federation."""


def campaign(pool: TaskPool, config: FederationConfig, folder: Path, on_event: OnEvent) -> None:
    """In place of :func:`omnifed_server.campaign.run_campaign`."""
    pool.wait_for(config.sites, len(config.sites), 600.0)
    identity = CoordinatorIdentity.load(Path(config.identity))
    write_json(folder / RESULT, alternate(pool, config.sites, config.rounds, config.steps, folder, identity))


def alternate(
    pool: TaskPool, sites: tuple[str, ...], repeats: int, steps: int, folder: Path, identity: CoordinatorIdentity
) -> dict[str, list[float]]:
    """Seconds of each round by mode, in turns; the first pair warms up and is left out."""
    seconds: dict[str, list[float]] = {"mean": [], "private": []}
    for repeat in range(repeats + 1):
        for mode in ("mean", "private") if repeat % 2 else ("private", "mean"):
            arm = ArmConfig(
                campaign="overhead",
                name=f"{mode}-{repeat}",
                sites=sites,
                student=STUDENT,
                train=TrainSpec(steps=steps, batch_size=8, precision="fp32"),
                rounds=1,
                quorum=1.0,
                local_layers=("stem", "head", "norm"),
                aggregation=AggregationSpec.model_validate({"mode": mode}),
            )
            result = run_arm(pool, arm, folder / "arms" / arm.name, identity=identity)
            if repeat:
                seconds[mode].append(result.seconds)
    return seconds


def make(folder: Path, server: str) -> tuple[str, ...]:
    """Six sites with their data, identities that know each other, and the coordinator's; their names."""
    names = tuple(sorted(path.name for path in write_preset("modalities", folder / "data", seed=0, image_size=64)))
    found(folder / "coordinator", "overhead", server)
    for name in names:
        own = folder / "state" / name / "identity"
        join(own, admit(folder / "coordinator", enrol(own, name)))
    roster = CoordinatorIdentity.load(folder / "coordinator").signed_roster()
    for name in names:
        SiteIdentity.load(folder / "state" / name / "identity").accept(roster)
    return names


def in_process(folder: Path, repeats: int, steps: int) -> dict[str, list[float]]:
    names = make(folder, "127.0.0.1:8000")

    def executor_of(name: str) -> SiteExecutor:
        state = folder / "state" / name
        data = prepare(load_site(folder / "data" / name), state / "prepared")
        return SiteExecutor(data, state, identity=SiteIdentity.load(state / "identity"))

    pool = TaskPool(InProcessGrid(client_app(executor_of), names), poll_s=0.01)
    return alternate(pool, names, repeats, steps, folder, CoordinatorIdentity.load(folder / "coordinator"))


def deployed(folder: Path, repeats: int, steps: int) -> dict[str, list[float]]:
    port = free_port()
    names = make(folder, f"127.0.0.1:{port}")
    (folder / "instead").mkdir()
    (folder / "instead" / "sitecustomize.py").write_text(INSTEAD)
    listed = ", ".join(f'"{name}"' for name in names)
    (folder / "federation.toml").write_text(
        f'name = "overhead"\nsites = [{listed}]\narms = ["fedbn"]\nrounds = {repeats}\nsteps = {steps}\n'
        f'quorum = {len(names)}\nhost = "127.0.0.1"\nport = {port}\nidentity = "{folder / "coordinator"}"\n'
        'aggregation = "private"\n'
    )
    path = os.pathsep.join([str(folder / "instead"), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    scripts, running = Path(sys.executable).parent, []

    def start(*command: str) -> subprocess.Popen[bytes]:
        with (folder / "processes.log").open("ab") as log:
            full = [str(scripts / command[0]), *command[1:]]
            running.append(subprocess.Popen(full, env=env, cwd=folder, stdout=log, stderr=log))
        return running[-1]

    try:
        run = folder / "run"
        server = start("omnifed-server", "--federation", str(folder / "federation.toml"), "--out", str(run))
        for name in names:
            where = ("--data", str(folder / "data" / name), "--state", str(folder / "state" / name))
            start("omnifed-client", "--site", name, *where)
        server.wait()
        if not (run / RESULT).is_file():
            raise SystemExit((folder / "processes.log").read_text()[-4000:])
        found_: dict[str, list[float]] = json.loads((run / RESULT).read_bytes())
        return found_
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure = in_process if options.in_process else deployed
        seconds = measure(Path(folder), options.repeats, options.steps)
    ratios = [private / mean for mean, private in zip(seconds["mean"], seconds["private"], strict=True)]
    found_: dict[str, Any] = {
        "where": "in process" if options.in_process else "deployed",
        "mean_s": statistics.median(seconds["mean"]),
        "private_s": statistics.median(seconds["private"]),
        "added_s": statistics.median(b - a for a, b in zip(seconds["mean"], seconds["private"], strict=True)),
        "ratio": statistics.median(ratios),
    }
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], **found_, "seconds": seconds}))
        return
    print(f"{found_['where']}, six sites, {os.cpu_count()} cores, {options.repeats} pairs of rounds")
    print(f"a round of mean {found_['mean_s']:.1f} s, of private {found_['private_s']:.1f} s")
    print(f"median of what a private round takes longer: {found_['added_s']:.1f} s")
    spread = f"from {min(ratios):.3f} to {max(ratios):.3f}"
    print(f"median of the paired ratios {found_['ratio']:.3f} ({spread}); target at most 1.15")
    if found_["mean_s"] < 40:
        print("note: the training is too short for the ratio; raise --steps until a round takes 40 s")


if __name__ == "__main__":
    main()
