"""`omnifed describe` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def omnifed(*args: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from omnifed.cli.app import app; app(sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)


def test_json_gives_the_table_of_the_paper():
    done = omnifed("describe", "omnisegnet:compact", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["params"], facts["macs"], facts["flops"]) == (1_560_553, 2_301_251_840, 4_602_503_680)
    assert facts["channels"] == [16, 32, 64, 128, 160]
    assert facts["blocks"] == {"encoder": [2, 1, 1, 1, 1], "decoder": [2, 2, 1, 1]}


def test_table_for_a_site():
    done = omnifed(
        "describe", "omnisegnet:balanced,stem_stride=2", "--size", "128", "--classes", "3", "--channels", "1"
    )
    assert done.returncode == 0, done.stderr
    for text in ("128 x 128 x 1", "3.225 M", "32, 48, 96, 192, 256", "10: 3, 3, 2, 2"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("args", "code"), [(("omnisegnet:tiny",), "OF301"), (("omnisegnet:compact", "--size", "100"), "OF303")]
)
def test_errors_have_a_number_and_no_traceback(args, code):
    done = omnifed("describe", *args)
    assert done.returncode == 2
    assert code in done.stderr
    assert "Traceback" not in done.stderr


def test_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from omnifed.cli.app import app; import omnifed.models.slices\n"
        "app(['describe', 'omnisegnet:accurate', '--json'], standalone_mode=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["params"] == 6_028_277


def test_help_has_an_example():
    assert "omnifed describe omnisegnet:compact" in omnifed("describe", "--help").stdout.replace("\n", " ")
