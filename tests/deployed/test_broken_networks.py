"""Networks that break: each site has a proxy of its own to the coordinator, which the test cuts."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Federation
from proxy import Kind, Proxy
from twin import difference, twin

pytestmark = pytest.mark.slow
SITES = ("north", "east", "south", "west")
CUTS: Mapping[int, int] = {5: 20, 30: 4, 120: 1}
"""How often each site is cut for so many seconds: 100 cuts of four sites, alternately of both kinds."""


@contextmanager
def cut_off(federation: Federation) -> Iterator[dict[str, Proxy]]:
    """Starts the federation with a proxy before each site."""
    proxies = {site: Proxy(federation.port) for site in federation.sites}
    try:
        federation.start_server()
        for site, proxy in proxies.items():
            federation.start_client(site, server=f"127.0.0.1:{proxy.port}")
        yield proxies
    finally:
        for proxy in proxies.values():
            proxy.close()


def joined(federation: Federation) -> None:
    for site in federation.sites:
        federation.wait_event(lambda e, site=site: e["event"] == "round" and e["site"] == site, 150)


def same_as_undisturbed(federation: Federation, seconds: float) -> None:
    assert federation.finish(seconds) == 0
    assert federation.left_behind() == []
    federation.check_counts()
    assert difference(federation.final(), twin(federation)) == []


class Cutter(threading.Thread):
    """Cuts one site, again and again, at random moments."""

    def __init__(self, site: str, proxy: Proxy, number: int) -> None:
        super().__init__(daemon=True)
        self.site, self.proxy, self.draw = site, proxy, random.Random(number)
        self.made: list[tuple[int, Kind, int]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        lengths = [seconds for seconds, count in CUTS.items() for _ in range(count)]
        self.draw.shuffle(lengths)
        for number, seconds in enumerate(lengths):
            # Long enough to get a round or two on their way, short enough to meet each step of one.
            if self.stop.wait(self.draw.uniform(2.0, 12.0)):
                return
            kind: Kind = "reset" if number % 2 else "hole"
            self.proxy.cut(kind)
            time.sleep(seconds)
            self.made.append((seconds, kind, self.proxy.heal()))


@pytest.mark.timeout(1500)
def test_a_hundred_cuts_change_nothing(tmp_path: Path) -> None:
    # A site that is cut for two minutes must not be missed, or the result would be another one: so all are needed, and
    # no deadline is shorter than two such cuts.
    with Federation(tmp_path / "f", SITES, rounds=30, wait_s=600, deadline_s=600) as federation:
        with cut_off(federation) as proxies:
            joined(federation)
            cutters = [Cutter(site, proxy, number) for number, (site, proxy) in enumerate(proxies.items())]
            for cutter in cutters:
                cutter.start()
            for cutter in cutters:
                cutter.join(900)
            rounds = max(e["round"] for e in federation.events() if e["event"] == "round")
            same_as_undisturbed(federation, 600)
        made = Counter((seconds, kind) for cutter in cutters for seconds, kind, _ in cutter.made)
        touched = sum(touched > 0 for cutter in cutters for *_, touched in cutter.made)
        print(f"{dict(made)}, {touched} met a connection, during {rounds + 1} rounds")
        misses = Counter((e["site"], e["code"]) for e in federation.events() if e["event"] == "miss")
        lost = Counter((e["site"], e.get("code")) for e in federation.events() if e.get("state") == "lost")
        again = sum(e.get("state") == "again" for site in SITES for e in federation.site_events(site))
        print(f"misses {dict(misses)}, lost {dict(lost)}, {again} tasks answered from the store")
        assert sum(made.values()) == 100
        # A cut of five seconds may fall into the pause of a node that is just about to try again.
        assert touched >= 90
        assert rounds < 29, "the campaign must last for as long as it is cut"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["reset", "hole"])
def test_a_cut_in_the_middle_of_a_transfer(tmp_path: Path, kind: Kind) -> None:
    # 5.7 MB a state: the cut comes when a third of one has gone; the last outlasts Flower's 30 s for a request.
    with Federation(tmp_path / "f", rounds=5, wait_s=300, deadline_s=300) as federation, cut_off(federation) as proxies:
        joined(federation)
        for way, seconds in (("up", 5), ("down", 5), ("up", 35)):
            proxies["east"].cut_after(kind, way, 2_000_000)
            proxies["east"].wait_cut(120)
            time.sleep(seconds)
            assert proxies["east"].heal() > 0
        same_as_undisturbed(federation, 300)
