"""The ledger: what is booked stays booked, for every patient it concerns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omnifed.errors import OmniFedError
from omnifed.privacy.dp.ledger import FILE, Ledger

ABOUT = {
    "campaign": "c",
    "arm": "fedavg",
    "round": 0,
    "sigma": 2.0,
    "rate": 0.5,
    "steps": 4,
    "delta": 0.05,
    "clip": 1.0,
}


def test_releases_are_found_by_any_of_their_patients_in_every_campaign(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.releases == ()
    first = ledger.book(("anna", "bert"), **ABOUT)
    second = ledger.book(("bert", "carl"), **{**ABOUT, "campaign": "d"})
    again = Ledger(tmp_path)
    assert again.releases == (first, second)
    assert again.of(("anna",)) == (first,)
    assert again.of(("carl", "dora")) == (second,)
    assert again.of(("bert",)) == again.of(("anna", "carl")) == (first, second)
    assert again.of(("dora",)) == ()
    assert again.of_newest() == (first, second)
    third = ledger.book(("dora",), **ABOUT)
    assert again.of_newest() == (third,)
    assert (first.count, first.id != second.id) == (2, True)


def test_it_names_no_patient_and_is_readable_by_the_site_alone(tmp_path: Path) -> None:
    Ledger(tmp_path).book(("anna", "bert"), **ABOUT)
    Ledger(tmp_path / "other").book(("anna", "bert"), **ABOUT)
    text = (tmp_path / FILE).read_text()
    assert "anna" not in text
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    here, there = (json.loads((folder / FILE).read_text())["groups"] for folder in (tmp_path, tmp_path / "other"))
    assert set(here).isdisjoint(there)


def test_equal_patients_are_kept_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.book(("anna", "bert"), **ABOUT)
    ledger.book(("bert", "anna"), **{**ABOUT, "round": 1})
    assert len(json.loads((tmp_path / FILE).read_text())["groups"]) == 1


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', '{"version": 2, "salt": "00"}', "[]"])
def test_a_damaged_ledger_is_no_empty_one(tmp_path: Path, damage: str) -> None:
    Ledger(tmp_path).book(("anna",), **ABOUT)
    (tmp_path / FILE).write_text(damage)
    for ask in (lambda: Ledger(tmp_path).of(("anna",)), lambda: Ledger(tmp_path).book(("anna",), **ABOUT)):
        with pytest.raises(OmniFedError) as caught:
            ask()
        assert caught.value.code == "OF854"
    assert (tmp_path / FILE).read_text() == damage


def test_a_process_that_is_killed_leaves_a_whole_ledger(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from omnifed.privacy.dp.ledger import Ledger
for number in range(100000):
    Ledger(Path({str(tmp_path)!r})).book(("anna",), **{{**{ABOUT!r}, "round": number}})
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(10):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    told = [*range(10), *(int(line) for line in process.stdout)]
    process.wait()
    booked = [release.round for release in Ledger(tmp_path).releases]
    assert booked[: len(told)] == told
    assert len(booked) - len(told) in (0, 1)
