"""`omnifed-client enrol | join | rotate` and the doctor's word on it, as a hospital runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from omnifed.trust.authority import admit, found, revoke, rotate
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.policy import FILE, load_policy
from omnifed.trust.request import open_request
from omnifed.trust.signing import Signed, fingerprint
from omnifed_client.config import ClientConfig
from omnifed_client.identity_checks import check_identity

RUN = "import sys; from omnifed_client.cli import app; app(sys.argv[1:])"


class Hospital:
    """A coordinator and a hospital's machine, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = found(folder / "coordinator", "chaos", "127.0.0.1:8000")
        self.state = folder / "xdg" / "omnifed" / "ct"

    def run(self, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder / "xdg"), "XDG_CONFIG_HOME": str(self.folder)}
        command = [sys.executable, "-c", RUN, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, input=answer, capture_output=True, text=True, timeout=60
        )

    def answer(self, name: str = "ct-request.json") -> Signed:
        """Has the coordinator answer the request in that file; the kit lies in ``kit.json``."""
        kit = admit(self.coordinator.folder, Signed.read((self.folder / name).read_bytes(), name))
        (self.folder / "kit.json").write_bytes(kit.to_json())
        return kit

    @property
    def root(self) -> str:
        return fingerprint(self.coordinator.about.root)

    @property
    def config(self) -> ClientConfig:
        values = {"site": "ct", "data": self.folder, "server": "127.0.0.1:8000", "state": self.state}
        return ClientConfig.model_validate(values)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


@pytest.fixture(scope="module")
def _joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hospital = Hospital(tmp_path_factory.mktemp("joined"))
    assert hospital.run("enrol", "--site", "ct").returncode == 0
    hospital.answer()
    assert hospital.run("join", "kit.json", "--yes").returncode == 0
    return hospital.folder


@pytest.fixture
def joined(_joined: Path, tmp_path: Path) -> Hospital:
    """A copy of a hospital that has joined."""
    shutil.copytree(_joined, tmp_path / "copy")
    hospital = Hospital.__new__(Hospital)
    hospital.folder, hospital.state = tmp_path / "copy", tmp_path / "copy" / "xdg" / "omnifed" / "ct"
    hospital.coordinator = CoordinatorIdentity.load(hospital.folder / "coordinator")
    return hospital


def refused(done: subprocess.CompletedProcess[str], code: str) -> None:
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith(f"{code}: ")
    assert "Remedy: " in done.stderr


def test_from_enrolling_to_joined(hospital: Hospital) -> None:
    done = hospital.run("enrol", "--site", "ct")
    assert done.returncode == 0, done.stderr
    request = Signed.read((hospital.folder / "ct-request.json").read_bytes(), "request")
    assert fingerprint(request.key) in done.stdout
    again = hospital.run("enrol", "--site", "ct", "--out", "again.json")
    assert again.returncode == 0
    assert (hospital.folder / "again.json").read_bytes() == (hospital.folder / "ct-request.json").read_bytes()
    hospital.answer()
    done = hospital.run("join", "kit.json", answer="y\n")
    assert done.returncode == 0, done.stderr
    assert hospital.root in done.stdout
    assert "coordinator 127.0.0.1:8000" in done.stdout
    assert SiteIdentity.load(hospital.state / "identity").key.public == request.key
    # Known by now: nobody is asked twice.
    assert hospital.run("join", "kit.json").returncode == 0


def test_each_command_names_the_next_one_as_it_must_be_given(hospital: Hospital) -> None:
    done = hospital.run("enrol", "--site", "ct", "--state", "own")
    assert "omnifed-client join KIT --state own" in done.stdout
    hospital.answer()
    done = hospital.run("join", "kit.json", "--state", "own", "--yes")
    (told,) = re.findall("omnifed-client (policy show .*)", done.stdout)
    assert hospital.run(*told.split()).returncode == 0


def test_a_no_joins_nothing(hospital: Hospital) -> None:
    hospital.run("enrol", "--site", "ct")
    hospital.answer()
    assert hospital.run("join", "kit.json", answer="n\n").returncode == 1
    assert not (hospital.state / "identity" / "kit.json").exists()
    refused(hospital.run("join", "kit.json"), "OF809")
    refused(hospital.run("join", "kit.json", "--fingerprint", "ab12 cd34"), "OF808")
    assert not (hospital.state / "identity" / "kit.json").exists()
    given = hospital.root.upper().replace(" ", "  ")
    assert hospital.run("join", "kit.json", "--fingerprint", given).returncode == 0


def test_the_state_folder_of_the_configuration(hospital: Hospital) -> None:
    (hospital.folder / "sites").mkdir()
    (hospital.folder / "sites" / "ct.toml").write_text('site = "ct"\nstate = "../mine"\n')
    assert hospital.run("enrol", "--site", "ct").returncode == 0
    assert (hospital.folder / "mine" / "identity" / "site.key").is_file()
    assert hospital.run("enrol", "--site", "ct", "--state", "given").returncode == 0
    assert (hospital.folder / "given" / "identity" / "site.key").is_file()


def test_rotating(joined: Hospital) -> None:
    old = SiteIdentity.load(joined.state / "identity").key.public
    done = joined.run("rotate", "--site", "ct", "--out", "new.json")
    assert done.returncode == 0, done.stderr
    assert SiteIdentity.load(joined.state / "identity").key.public == old
    joined.answer("new.json")
    assert joined.run("join", "kit.json").returncode == 0
    new = open_request(Signed.read((joined.folder / "new.json").read_bytes(), "request"))
    assert SiteIdentity.load(joined.state / "identity").key.public == new.sign != old


def test_a_proposed_policy_is_taken_at_first_and_shown_later(hospital: Hospital) -> None:
    last = datetime.now(UTC).date() + timedelta(days=99)
    proposal, file = hospital.folder / "coordinator" / FILE, hospital.state / "identity" / FILE
    proposal.write_text(f'expires = {last}\npurposes = ["care", "research"]\nmodes = ["private"]\n')
    hospital.run("enrol", "--site", "ct")
    hospital.answer()
    done = hospital.run("join", "kit.json", "--yes")
    assert done.returncode == 0, done.stderr
    policy = load_policy(file.parent)
    assert (policy.modes, policy.expires, policy.purposes) == (("private",), last, ("research",))
    # Where ours is stricter, it says so.
    assert 'purposes: proposed ["care", "research"], here ["research"]' in done.stdout
    assert "modes:" not in done.stdout

    before = file.read_bytes()
    proposal.write_text(f'expires = {last}\nmodes = ["mean"]\nmin_cases = 5\n')
    hospital.answer()
    for command in (("join", "kit.json"), ("policy", "show", "--site", "ct")):
        done = hospital.run(*command)
        assert done.returncode == 0, done.stderr
        assert 'modes: proposed ["mean"], here ["private"]' in done.stdout
        assert "min_cases: proposed 5, here 20" in done.stdout
        assert "purposes:" not in done.stdout
    assert file.read_bytes() == before


def test_misuse_ends_with_its_number(joined: Hospital) -> None:
    refused(joined.run("enrol"), "OF143")
    refused(joined.run("rotate"), "OF143")
    refused(joined.run("enrol", "--site", "../ct"), "OF102")
    refused(joined.run("enrol", "--site", "mr", "--state", str(joined.state)), "OF809")
    refused(joined.run("rotate", "--site", "mr"), "OF804")
    refused(joined.run("join", "absent.json"), "OF809")
    refused(joined.run("join", "ct-request.json"), "OF802")
    refused(joined.run("join", "kit.json", "--state", "elsewhere", "--yes"), "OF808")
    found(joined.folder / "other", "chaos", "127.0.0.1:8000")
    foreign = admit(joined.folder / "other", Signed.read((joined.folder / "ct-request.json").read_bytes(), ""))
    (joined.folder / "foreign.json").write_bytes(foreign.to_json())
    refused(joined.run("join", "foreign.json", "--yes"), "OF808")


# Doctor ---------------------------------------------------------------------------------------------------------------


def test_the_doctor_says_who_the_site_is(joined: Hospital) -> None:
    found = check_identity(joined.config)
    assert found.state == "ok"
    assert "member of chaos in roster 2" in found.seen
    assert joined.root in found.seen


def test_the_doctor_needs_no_identity_on_one_machine(hospital: Hospital) -> None:
    insecure = hospital.config.model_copy(update={"insecure": True})
    assert check_identity(insecure).state == "ok"
    found = check_identity(hospital.config)
    assert (found.state, found.code) == ("fail", "OF804")


def test_the_doctor_names_what_is_wrong(joined: Hospital) -> None:
    identity, folder = SiteIdentity.load(joined.state / "identity"), joined.state / "identity"
    now = datetime.now(UTC)
    soon = check_identity(joined.config, now=now + timedelta(days=170))
    assert (soon.state, soon.code) == ("warn", "OF803")
    assert "the roster ends in 9 days" in soon.seen
    late = check_identity(joined.config, now=now + timedelta(days=366))
    assert late.state == "fail"
    assert late.seen.startswith("expired of chaos")
    other = check_identity(joined.config.model_copy(update={"site": "mr"}))
    assert (other.state, other.code) == ("fail", "OF808")

    revoke(joined.coordinator.folder, "ct")
    identity.accept(joined.coordinator.signed_roster())
    out = check_identity(joined.config)
    assert (out.state, out.code) == ("fail", "OF808")
    assert out.seen.startswith("revoked of chaos")

    (folder / "node.key").unlink()
    assert check_identity(joined.config).code == "OF801"
    (folder / "roster.json").write_bytes(b"{}")
    assert check_identity(joined.config).code == "OF802"


def test_a_kit_joined_late_says_what_ends_soon(joined: Hospital) -> None:
    """The roster of a federation that is not renewed."""
    rotate(joined.coordinator.folder, now=datetime.now(UTC) - timedelta(days=170))
    kit = Signed.read((joined.folder / "kit.json").read_bytes(), "kit")
    SiteIdentity.load(joined.state / "identity").accept(joined.coordinator.signed_roster())
    done = joined.run("join", "kit.json")
    assert done.returncode == 0, done.stderr
    assert "the roster ends in 9 days" in done.stdout
    assert kit.key == joined.coordinator.about.root


def test_help_has_examples_and_needs_no_torch(hospital: Hospital) -> None:
    for command in ("enrol", "join", "rotate"):
        assert "Example" in hospital.run(command, "--help").stdout
    code = "import sys, omnifed_client.cli; print({'torch', 'flwr', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
