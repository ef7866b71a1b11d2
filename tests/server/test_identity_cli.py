"""`omnifed-server init | admit | revoke | rotate | roster` as a coordinator runs them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from omnifed.cli.asking import PASSPHRASE
from omnifed.trust.authority_keys import AuthorityKeys
from omnifed.trust.enrolment import enrol, join, renew
from omnifed.trust.kit import open_kit
from omnifed.trust.signing import Signed, fingerprint

PHRASE = "five words out of a hat"
RUN = "import sys; from omnifed_server.cli import app; app(sys.argv[1:])"


def server(folder: Path, *arguments: str, answer: str = "", phrase: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, *arguments]
    said = {"cwd": folder, "input": answer, "capture_output": True, "text": True, "timeout": 60}
    # A session of its own has no terminal: nobody can be asked for a passphrase.
    return subprocess.run(command, env={**os.environ, PASSPHRASE: phrase}, start_new_session=True, **said)


def typed(folder: Path, *arguments: str, lines: str) -> tuple[int, str]:
    """Exit status, and what a terminal shows on which a person types ``lines``."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.pop(PASSPHRASE, None)
        os.execv(sys.executable, [sys.executable, "-c", RUN, *arguments])
    shown = b""
    answers = iter(lines.splitlines())
    try:
        while block := os.read(terminal, 4096):
            shown += block
            if shown.endswith(b": "):
                os.write(terminal, next(answers).encode() + b"\n")
    except OSError:  # the end of the program is the end of its terminal
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def request(folder: Path, site: str, state: str = "") -> Path:
    file = folder / f"{site}-request.json"
    file.write_bytes(enrol(folder / (state or site) / "identity", site).to_json())
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    done = server(tmp_path, "init", "identity", "--name", "chaos", "--server", "omnifed.example.org:443")
    assert done.returncode == 0, done.stderr
    return tmp_path


def root(folder: Path) -> str:
    return fingerprint(json.loads((folder / "identity" / "federation.json").read_text())["root"])


def refused(done: subprocess.CompletedProcess[str], code: str) -> None:
    assert done.returncode == 2
    assert done.stderr.startswith(f"{code}: ")
    assert "Remedy: " in done.stderr


def test_from_founding_to_revoking(folder: Path) -> None:
    """The authority is moved away at once, and every command finds it there."""
    (folder / "identity" / "authority").rename(folder / "usb")
    key = fingerprint(Signed.read(request(folder, "ct").read_bytes(), "").key)
    done = server(folder, "admit", "ct-request.json", "--authority", "usb", answer="y\n")
    assert done.returncode == 0, done.stderr
    assert "site         ct" in done.stdout
    assert f"fingerprint  {key}" in done.stdout
    assert root(folder) in done.stdout
    kit = Signed.read((folder / "ct-kit.json").read_bytes(), "kit")
    assert join(folder / "ct" / "identity", kit).site == "ct"

    listed = json.loads(server(folder, "roster", "--json").stdout)
    assert (listed["federation"], listed["fingerprint"], listed["version"]) == ("chaos", root(folder), 2)
    assert [(site["site"], site["standing"], site["fingerprint"]) for site in listed["sites"]] == [
        ("ct", "member", key)
    ]

    assert server(folder, "revoke", "ct", "--authority", "usb", "--yes").returncode == 0
    assert "roster 4" in server(folder, "rotate", "--authority", "usb").stdout
    table = server(folder, "roster").stdout
    assert root(folder) in table
    assert [line.split()[:2] for line in table.splitlines() if line.startswith("ct")] == [["ct", "revoked"]]


def test_init_says_what_to_compare_and_what_to_take_away(tmp_path: Path) -> None:
    done = server(tmp_path, "init", "id", "--name", "chaos", "--server", "localhost:8000")
    assert done.returncode == 0
    assert fingerprint(json.loads((tmp_path / "id" / "federation.json").read_text())["root"]) in done.stdout
    assert "Move id/authority" in done.stdout
    assert 'identity = "id"' in done.stdout


def test_a_proposed_policy_goes_into_the_kit_and_a_bad_one_nowhere(folder: Path) -> None:
    request(folder, "ct")
    proposal = folder / "identity" / "policy.toml"
    proposal.write_text("expires = 2099-01-01\nrounds = 3\n")
    refused(server(folder, "admit", "ct-request.json", "--yes"), "OF102")
    assert json.loads(server(folder, "roster", "--json").stdout)["version"] == 1
    proposal.write_text("expires = 2099-01-01\nmax_rounds = 3\n")
    done = server(folder, "admit", "ct-request.json", "--yes")
    assert "identity/policy.toml is proposed to it" in done.stdout
    policy = open_kit(Signed.read((folder / "ct-kit.json").read_bytes(), "kit")).policy
    assert policy is not None
    assert policy.max_rounds == 3


def test_a_no_changes_nothing(folder: Path) -> None:
    request(folder, "ct")
    done = server(folder, "admit", "ct-request.json", answer="n\n")
    assert done.returncode == 1
    assert not (folder / "ct-kit.json").exists()
    assert json.loads(server(folder, "roster", "--json").stdout)["version"] == 1


def test_new_keys_in_place_of_old_ones(folder: Path) -> None:
    request(folder, "ct")
    server(folder, "admit", "ct-request.json", "--yes", "--out", "kit")
    join(folder / "ct" / "identity", Signed.read((folder / "kit").read_bytes(), "kit"))
    rotation = renew(folder / "ct" / "identity")
    (folder / "next.json").write_bytes(rotation.to_json())
    done = server(folder, "admit", "next.json", "--yes", "--out", "kit2")
    assert done.returncode == 0, done.stderr
    assert "in place of  " in done.stdout
    assert open_kit(Signed.read((folder / "kit2").read_bytes(), "kit")).site == "ct"

    refused(server(folder, "admit", str(request(folder, "ct", "elsewhere")), "--yes"), "OF807")
    assert server(folder, "admit", "ct-request.json", "--yes", "--replace").returncode == 0


def test_a_passphrase_is_typed_twice_unseen_and_asked_for_where_it_is_needed(tmp_path: Path) -> None:
    init = ("init", "identity", "--name", "chaos", "--server", "localhost:1", "--passphrase")
    status, shown = typed(tmp_path, *init, lines=f"{PHRASE}\n{PHRASE}")
    assert status == 0, shown
    assert PHRASE not in shown
    assert "Keep its passphrase elsewhere" in shown
    keys = tmp_path / "identity" / "authority"
    assert AuthorityKeys.load(keys, lambda: PHRASE)
    status, shown = typed(tmp_path, "rotate", lines=PHRASE)
    assert (status, "roster 2" in shown, PHRASE in shown) == (0, True, False)
    status, shown = typed(tmp_path, "rotate", lines="a wrong one of length")
    assert (status, "OF816" in shown) == (2, True)
    # In scripts.
    request(tmp_path, "ct")
    for command in (("rotate",), ("admit", "ct-request.json", "--yes"), ("revoke", "ct", "--yes")):
        refused(server(tmp_path, *command), "OF816")
        done = server(tmp_path, *command, phrase=PHRASE)
        assert done.returncode == 0, done.stderr
        assert PHRASE not in done.stdout + done.stderr
    status, shown = typed(tmp_path, "passphrase", lines=f"{PHRASE}\n{PHRASE[::-1]}\n{PHRASE[::-1]}")
    assert (status, "encrypted" in shown) == (0, True)
    refused(server(tmp_path, "passphrase", "--remove", phrase=PHRASE), "OF816")
    assert "in clear" in server(tmp_path, "passphrase", "--remove", phrase=PHRASE[::-1]).stdout
    assert AuthorityKeys.load(keys)


def test_a_short_passphrase_makes_nothing(tmp_path: Path) -> None:
    init = ("init", "new", "--name", "chaos", "--server", "localhost:1", "--passphrase")
    refused(server(tmp_path, *init, phrase="fifteen letters"), "OF817")
    refused(server(tmp_path, *init, phrase="x" * 201), "OF817")
    refused(server(tmp_path, *init, answer=PHRASE), "OF816")  # nobody reads it where it would be seen
    assert typed(tmp_path, *init, lines=f"{PHRASE}\nanother one, as long")[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("init", "identity", "--name", "chaos", "--server", "localhost:1"), "OF809"),
        (("init", "new", "--name", "a b", "--server", "localhost:1"), "OF102"),
        (("init", "new", "--name", "a", "--server", "https://localhost"), "OF102"),
        (("admit", "absent.json", "--yes"), "OF809"),
        (("admit", "identity/federation.json", "--yes"), "OF802"),
        (("admit", "identity/roster.json", "--yes"), "OF802"),
        (("admit", "ct-request.json", "--yes", "--identity", "nowhere"), "OF805"),
        (("admit", "ct-request.json", "--yes", "--authority", "nowhere"), "OF806"),
        (("admit", "ct-request.json"), "OF809"),
        (("revoke", "ct", "--yes"), "OF809"),
        (("revoke", "ct"), "OF809"),
        (("rotate", "--identity", "nowhere"), "OF805"),
        (("rotate", "--authority", "nowhere"), "OF806"),
        (("roster", "--identity", "nowhere"), "OF805"),
    ],
)
def test_misuse_ends_with_its_number(misused: Path, arguments: tuple[str, ...], code: str) -> None:
    refused(server(misused, *arguments), code)
    assert not (misused / "new").exists()


@pytest.fixture(scope="module")
def misused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("misused")
    server(folder, "init", "identity", "--name", "chaos", "--server", "localhost:1")
    request(folder, "ct")
    return folder


def test_help_has_examples_and_needs_no_torch(tmp_path: Path) -> None:
    for command in ("init", "admit", "revoke", "rotate", "passphrase", "roster"):
        assert "Example" in server(tmp_path, command, "--help").stdout
    code = "import sys, omnifed_server.cli; print({'torch', 'flwr', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
