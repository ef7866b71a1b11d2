"""What secure aggregation costs beside training: `python benchmarks/secagg_cost.py [--json]`.

Six sites, threshold 4, 1.5 million parameters, real identities and state folders. Each figure is the median over sites
and rounds. Client: encoding and keys, shares, the masked vector, revealing, with all that is sealed and written to
disk. Server: the sum from disk and taking off the masks, with all sites and with two that dropped out after their
shares, which is the dearest case. Upload: bytes of all four replies as they travel against those of the plain reply.

Targets: client at most 0.5 s, upload at most 1.01 of the plain one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.federation.replies import FitReply, Reply
from omnifed.federation.tasks import FitTask, MaskedTask, SharesTask, UnmaskTask
from omnifed.models.spec import StudentSpec
from omnifed.privacy.secagg.collect import inbox_of, survivors_of, unmask
from omnifed.privacy.secagg.fixed import Layout
from omnifed.privacy.secagg.keys import Parties, Session
from omnifed.privacy.secagg.records import Revealed, Shared
from omnifed.privacy.spec import PrivacySpec
from omnifed.states import State, read_state, write_state
from omnifed.training.spec import TrainSpec
from omnifed.transport.records import size_of, to_record
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.signing import Signed
from omnifed_client import secure
from omnifed_client.store import SiteStore
from omnifed_sim.identities import identity_folder, identity_of, make_identities

NAMES = tuple(f"site-{number}" for number in range(1, 7))
THRESHOLD, CLIP = 4, 10.0
PRIVACY = PrivacySpec(mode="private", threshold=THRESHOLD, sites=NAMES, clip=CLIP)
Times = dict[str, list[float]]


class Timer:
    """Adds the seconds of a block to a list."""

    def __init__(self, into: list[float]) -> None:
        self.into = into

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *about: object) -> None:
        self.into.append(time.perf_counter() - self.begin)


def weights(params: int) -> State:
    """A made-up global part: 60 arrays of floats and some counters."""
    draw = np.random.default_rng([3, params])
    parts = {f"layer{k}.weight": draw.normal(0, 0.1, params // 60).astype(np.float32) for k in range(60)}
    return parts | {"norm.num_batches_tracked": np.array(7)}


def one_round(
    round_: int, held: State, sites: dict[str, SiteIdentity], coordinator: CoordinatorIdentity, root: Path, times: Times
) -> dict[str, int]:
    """One private round of all sites; bytes of its uploads and of a plain one, of one site."""
    stores = {site: SiteStore(root / "sites" / site / "state", "bench") for site in NAMES}
    head = {"campaign": "bench", "arm": "fedavg", "round": round_}
    session = Session(federation=coordinator.about.name, attempt=0, **head)
    sent: dict[str, int] = defaultdict(int)
    draw = np.random.default_rng([5, round_])
    keys: dict[str, Signed] = {}
    seconds = dict.fromkeys(NAMES, 0.0)

    def timed(site: str, what: str, call: Callable[[], tuple[Reply, State]]) -> tuple[Any, State]:
        begin = time.perf_counter()
        reply, arrays = call()
        spent = time.perf_counter() - begin
        times[what].append(spent)
        seconds[site] += spent
        sent[site] += size_of(to_record(reply, arrays))
        return reply, arrays

    for site in NAMES:
        trained = {k: v + draw.normal(0, 1e-3, v.shape).astype(v.dtype) if v.ndim else v for k, v in held.items()}
        plain = FitReply(
            id="f", site=site, n=500, steps=40, loss={"total": 1.0, "ce": 0.5, "dice": 0.5}, dice=0.8, adopted=True
        )
        sent["plain"] = size_of(to_record(plain, trained))
        task = FitTask(id="f", student=StudentSpec(), train=TrainSpec(), privacy=PRIVACY, **head)
        fit = partial(secure.fit, task, held, stores[site], sites[site], partial(_trained, plain, trained))
        done = timed(site, "keys", fit)
        keys[site] = done[0].keys
    parties = Parties.read(keys.values(), session)
    shared, receipts, masked, revealed = {}, {}, {}, {}
    for site in NAMES:
        ask = SharesTask(id="s", keys=tuple(keys.values()), **head)
        reply, _ = timed(site, "shares", partial(secure.answer, ask, stores[site], sites[site]))
        shared[site] = Shared(sealed=reply.sealed, commitment=reply.commitment, digests=reply.digests)
    for site in NAMES:
        ask = MaskedTask(id="m", inbox=inbox_of(site, shared), **head)
        reply, arrays = timed(site, "masked", partial(secure.answer, ask, stores[site], sites[site]))
        receipts[site] = reply.receipt
        masked[site] = root / f"{site}.safetensors"
        write_state(masked[site], arrays, {})
    stay = NAMES[2:] if round_ % 2 else NAMES
    listed = survivors_of(parties, stay, coordinator.key)
    for site in stay:
        ask = UnmaskTask(id="u", survivors=listed, receipts=tuple(receipts[s] for s in sorted(stay)), **head)
        reply, _ = timed(site, "unmask", partial(secure.answer, ask, stores[site], sites[site]))
        revealed[site] = Revealed(seeds=reply.seeds, keys=reply.keys)
    times["client"] += [seconds[site] for site in stay]
    layout = Layout(held, len(NAMES), CLIP)
    with Timer(times["server, two drops" if round_ % 2 else "server"]):
        total = np.zeros(layout.size, np.uint32)
        for site in stay:
            total += read_state(masked[site])[0]["masked"]
        unmask(total, parties, THRESHOLD, shared, stay, revealed)
        sums = layout.decode(total)
    if not layout.plausible(sums, len(stay)):
        raise SystemExit("the sum is wrong")
    with Timer(times["of which writing 6 MB"]):
        write_state(root / "written.safetensors", {"vector": total}, {})
    return {"private": sent[stay[0]], "plain": sent["plain"]}


def _trained(reply: FitReply, state: State) -> tuple[FitReply, State]:
    return reply, state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=int, default=1_500_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: Times = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        coordinator = make_identities(root, NAMES)
        sites = {site: identity for site in NAMES if (identity := identity_of(root, site))}
        if len(sites) < len(NAMES):
            raise SystemExit(f"no identity in {identity_folder(root, NAMES[0])}")
        held = weights(options.params)
        for round_ in range(options.rounds):
            sent = one_round(round_, held, sites, coordinator, root, times)
    found = {name: statistics.median(values) for name, values in times.items()}
    ratio = sent["private"] / sent["plain"]
    if options.json:
        about = {"machine": platform.processor(), "cores": os.cpu_count(), "parameters": options.params}
        print(json.dumps({**about, "seconds": found, "upload_ratio": ratio, "bytes": sent}))
        return
    print(f"{options.params:,} parameters, {len(NAMES)} sites, threshold {THRESHOLD}, {options.rounds} rounds")
    for name, value in found.items():
        goal = "   target at most 0.5" if name == "client" else ""
        print(f"{name:>24} {value:7.3f} s{goal}")
    print(f"{'upload':>24} {ratio:7.4f} x ({sent['private']:,} of {sent['plain']:,} bytes)   target at most 1.01")


if __name__ == "__main__":
    main()
