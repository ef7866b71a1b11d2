"""The doctor against real little servers, full disks, wrong folders: each trouble has its own words and remedy."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small_servers import Authority, closed_port, coordinator, silent

import omnifed
from omnifed.errors import OmniFedError
from omnifed_client import checks, data_checks, doctor, network_checks, reach, state_checks
from omnifed_client.checks import Finding
from omnifed_client.config import ClientConfig
from omnifed_client.network_checks import check_network


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(reach, "TIMEOUT_S", 1.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def client(folder: Path, port: int = 1, host: str = "127.0.0.1", **changes: object) -> ClientConfig:
    values = {"site": "ct", "data": folder / "data", "server": f"{host}:{port}", "state": folder / "state"}
    return ClientConfig.model_validate({**values, "insecure": True, **changes})


def secure(folder: Path, port: int, authority: Authority, host: str = "localhost") -> ClientConfig:
    return client(folder, port, host, insecure=False, root_certificates=str(authority.roots))


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert all(f.state == "ok" or (f.remedy and f.code) for f in found), "every trouble has a remedy and a number"
    return {f.name: f for f in found}


# Network --------------------------------------------------------------------------------------------------------------


def test_a_healthy_coordinator(tmp_path: Path) -> None:
    with coordinator() as server:
        found = by_name(check_network(client(tmp_path, server.port)))
    assert {f.state for f in found.values()} == {"ok"}
    assert list(found) == ["proxy", "name", "coordinator", "tls", "clock"]
    assert server.asked == ["/health"]


@pytest.mark.parametrize(
    ("their_clock_s", "state", "words"),
    [
        (0.0, "ok", ""),
        (20.0, "warn", "20 s behind"),
        (-2.0, "ok", "2 s ahead of"),
        (-4.2, "warn", "4 s ahead of"),
        (-7.0, "fail", "7 s ahead of"),
        (-90.0, "fail", "90 s ahead of"),
        (90.0, "warn", "90 s behind"),
        (600.0, "fail", "600 s behind"),
        (-600.0, "fail", "600 s ahead of"),
    ],
)
def test_the_clock(tmp_path: Path, their_clock_s: float, state: str, words: str) -> None:
    with coordinator(clock_s=their_clock_s) as server:
        clock = by_name(check_network(client(tmp_path, server.port)))["clock"]
    assert clock.state == state
    seconds, _, direction = words.partition(" ")
    if words:
        assert clock.seen.partition(" ")[2].startswith(direction)
        assert abs(int(clock.seen.split()[0]) - int(seconds)) <= 2


def test_no_date_is_no_verdict(tmp_path: Path) -> None:
    with coordinator(clock_s=None) as server:
        assert by_name(check_network(client(tmp_path, server.port)))["clock"].state == "warn"


def test_a_closed_port_is_refused(tmp_path: Path) -> None:
    found = by_name(check_network(client(tmp_path, closed_port())))
    assert found["coordinator"].state == "fail"
    assert "refuses" in found["coordinator"].seen
    assert "omnifed-server" in found["coordinator"].remedy
    assert found["clock"].state == "warn"


def test_a_silent_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    monkeypatch.setattr(reach, "TIMEOUT_S", 0.3)
    with silent() as port:
        found = by_name(check_network(client(tmp_path, port)))
        assert "no HTTP answer: time-out" in found["coordinator"].seen
        found = by_name(check_network(secure(tmp_path, port, authority)))
        assert "time-out" in found["tls"].seen
        assert found["tls"].state == "fail"


def test_dropped_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object, **kwargs: object) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)  # no firewall to drop them on loopback
    found = by_name(check_network(client(tmp_path, 4711)))["coordinator"]
    assert "does not answer (time-out)" in found.seen
    assert "outbound TCP to port 4711" in found.remedy


def test_an_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # a machine without a resolver takes its time to say so
    found = by_name(check_network(client(tmp_path, host="nobody.invalid", insecure=False)))
    assert found["name"].state == "fail"
    assert "nobody.invalid" in found["name"].seen
    assert [found[n].state for n in ("coordinator", "tls", "clock")] == ["warn"] * 3


@pytest.mark.parametrize(
    ("status", "words"), [(502, "reverse proxy runs"), (404, "Something else"), (301, "Something")]
)
def test_wrong_answers(tmp_path: Path, status: int, words: str) -> None:
    with coordinator(status=status) as server:
        found = by_name(check_network(client(tmp_path, server.port)))["coordinator"]
    assert (found.state, found.code) == ("fail", "OF136")
    assert str(status) in found.seen
    assert words in found.remedy


# TLS ------------------------------------------------------------------------------------------------------------------


def test_a_good_certificate(tmp_path: Path, authority: Authority) -> None:
    with coordinator(authority.issue("localhost", "127.0.0.1")) as server:
        for host in ("localhost", "127.0.0.1"):
            found = by_name(check_network(secure(tmp_path, server.port, authority, host)))
            assert {f.state for f in found.values()} == {"ok"}, found
            assert "localhost, 127.0.0.1" in found["tls"].seen


def test_a_certificate_near_its_end(tmp_path: Path, authority: Authority) -> None:
    with coordinator(authority.issue("localhost", days=(-60, 10.5))) as server:
        found = by_name(check_network(secure(tmp_path, server.port, authority)))["tls"]
    assert (found.state, found.code) == ("warn", "OF137")
    assert "10 days left" in found.seen


def test_a_certificate_for_another_name(tmp_path: Path, authority: Authority) -> None:
    with coordinator(authority.issue("omnifed.example.org", "10.1.2.3"), clock_s=600.0) as server:
        found = by_name(check_network(secure(tmp_path, server.port, authority)))
        assert (
            found["tls"].seen == "the certificate is for omnifed.example.org, 10.1.2.3; the address tried is localhost"
        )
        assert found["coordinator"].state == "ok"
        assert found["clock"].state == "fail", "the clock is read though the certificate does not verify"
        found = by_name(check_network(secure(tmp_path, server.port, authority, "127.0.0.1")))
        assert "the address tried is 127.0.0.1" in found["tls"].seen


def test_an_authority_that_is_not_trusted(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path, "Hospital Proxy")
    with coordinator(other.issue("localhost")) as server:
        found = by_name(check_network(secure(tmp_path, server.port, authority)))["tls"]
        assert found.state == "fail"
        assert "certificate of localhost, issued by Hospital Proxy, is not trusted" in found.seen
        assert "root_certificates" in found.remedy
        usual = client(tmp_path, server.port, "localhost", insecure=False)
        assert "is not trusted" in by_name(check_network(usual))["tls"].seen


@pytest.mark.parametrize(("days", "words"), [((-9, -1), "has expired"), ((5, 9), "is not valid yet")])
def test_a_certificate_of_another_time(tmp_path: Path, authority: Authority, days: tuple[int, int], words: str) -> None:
    with coordinator(authority.issue("localhost", days=days)) as server:
        found = by_name(check_network(secure(tmp_path, server.port, authority)))
    assert (found["tls"].state, found["clock"].state) == ("fail", "ok")
    assert words in found["tls"].seen


def test_tls_and_plain_http_confused(tmp_path: Path, authority: Authority) -> None:
    with coordinator() as server:
        found = by_name(check_network(secure(tmp_path, server.port, authority)))["tls"]
        assert found.state == "fail"
        assert "plain HTTP" in found.remedy
    with coordinator(authority.issue("localhost")) as server:
        found = by_name(check_network(client(tmp_path, server.port)))["coordinator"]
        assert found.state == "fail"
        assert "remove insecure" in found.remedy


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xc3\xa9"])
def test_unusable_root_certificates(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    found = by_name(check_network(client(tmp_path, insecure=False, root_certificates=str(file))))
    assert (found["tls"].state, found["tls"].code) == ("fail", "OF137")
    assert str(file) in found["tls"].seen


# Proxy ----------------------------------------------------------------------------------------------------------------


def test_loopback_never_goes_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    with coordinator() as server:
        found = by_name(check_network(client(tmp_path, server.port)))
    assert found["coordinator"].state == "ok"
    assert "HTTP_PROXY set; 127.0.0.1 is reached directly" in found["proxy"].seen


def test_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    with (
        coordinator(authority.issue("omnifed.example.org")) as server,
        coordinator(tunnel_to=server.port, wants_login=True) as proxy,
    ):
        config = secure(tmp_path, 443, authority, "omnifed.example.org")
        monkeypatch.setenv("https_proxy", f"http://anna:secret@127.0.0.1:{proxy.port}")
        found = by_name(check_network(config))
        assert {f.state for f in found.values()} == {"ok"}, found
        assert not any("secret" in f.seen for f in found.values())
        assert proxy.asked == ["omnifed.example.org:443"]
        assert server.asked == ["/health"]

        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        assert "wants a login" in by_name(check_network(config))["coordinator"].seen

        monkeypatch.setenv("https_proxy", f"127.0.0.1:{closed_port()}")
        assert "refuses connections" in by_name(check_network(config))["coordinator"].seen

        monkeypatch.setenv("no_proxy", "example.org")
        assert "reached directly" in network_checks.check_proxy(config).seen


def test_a_proxy_that_cannot_be_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    found = by_name(check_network(secure(tmp_path, 443, authority, "omnifed.example.org")))
    assert (found["proxy"].state, found["proxy"].code) == ("warn", "OF138")
    assert found["coordinator"].state == "warn"


# This machine ---------------------------------------------------------------------------------------------------------


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks.check_versions(client(tmp_path))
    assert found.state == "ok"
    assert f"omnifed {omnifed.__version__}" in found.seen
    for version, words in (("1.42.0", "flwr 1.42.0"), ("", "flwr absent")):
        monkeypatch.setattr(checks, "_version", lambda name, v=version: v if name == "flwr" else "2.0")
        found = checks.check_versions(client(tmp_path))
        assert (found.state, found.code) == ("fail", "OF134")
        assert words in found.seen


def test_disk(tmp_path: Path) -> None:
    assert state_checks.check_disk(client(tmp_path, min_free_gb=0)).state == "ok"
    full = state_checks.check_disk(client(tmp_path, min_free_gb=1e9))
    assert (full.state, full.code) == ("fail", "OF139")
    assert "wanted 1e+09" in full.seen


def test_memory(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "max"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    3145728 kB\n")
    cgroup.write_text("max\n")
    found = checks.check_memory(client(tmp_path), meminfo=meminfo, cgroup=cgroup)
    assert (found.state, found.seen) == ("ok", "3.0 GiB available")
    cgroup.write_text(str(2**30))
    found = checks.check_memory(client(tmp_path), meminfo=meminfo, cgroup=cgroup)
    assert (found.state, found.seen) == ("fail", "3.0 GiB available, the container may use 1.0")
    meminfo.write_text("MemAvailable: 1048576 kB\n")
    assert checks.check_memory(client(tmp_path), meminfo=meminfo, cgroup=tmp_path / "no").state == "fail"
    assert checks.check_memory(client(tmp_path), meminfo=tmp_path / "no").state == "warn"


def test_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = "print('noise'); print('{\"gpus\": %s}')"
    config = client(tmp_path, threads=1)
    assert checks.check_device(config, code=gpus % '["H1"]').seen.endswith("1 for training; H1")
    assert checks.check_device(config, code=gpus % "[]", driver=tmp_path / "no").state == "ok"
    gone = checks.check_device(config, code=gpus % "[]", driver=tmp_path)
    assert (gone.state, gone.code) == ("warn", "OF139")
    broken = checks.check_device(config, code="import no_such_torch")
    assert broken.state == "fail"
    assert "No module named 'no_such_torch'" in broken.seen
    monkeypatch.setattr(checks, "TORCH_LIMIT_S", 0.2)
    assert checks.check_device(config, code="import time; time.sleep(9)").state == "warn"


def test_the_state_folder(tmp_path: Path) -> None:
    config = client(tmp_path)
    assert state_checks.check_state(config).seen == f"{config.state} will be made"
    assert not config.state.exists(), "the doctor changes nothing"
    state_checks.stamp_state(config)
    assert config.state.stat().st_mode & 0o777 == 0o700
    assert state_checks.check_state(config).state == "ok"
    config.state.chmod(0o750)
    loose = state_checks.check_state(config)
    assert loose.state == "warn"
    assert f"chmod 700 {config.state}" in loose.remedy
    assert [p.name for p in config.state.iterdir()] == ["version.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for state in (Path("/proc/omnifed"), tmp_path / "file" / "state"):
        found = state_checks.check_state(client(tmp_path, state=state))
        assert (found.state, found.code) == ("fail", "OF140"), state


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert state_checks.check_state(client(tmp_path)).state == "fail"


@pytest.mark.parametrize(
    ("stamp", "state", "words"),
    [
        ({"site": "ct", "omnifed": omnifed.__version__}, "ok", ""),
        ({"site": "ct", "omnifed": "0.0.9"}, "warn", "written by omnifed 0.0.9"),
        ({"site": "ct", "omnifed": "99.1rc1"}, "fail", "written by omnifed 99.1rc1"),
        ({"site": "mri", "omnifed": omnifed.__version__}, "fail", "belongs to site mri"),
        ({"site": "ct"}, "warn", "cannot be read"),
    ],
)
def test_an_earlier_state(tmp_path: Path, stamp: dict[str, str], state: str, words: str) -> None:
    config = client(tmp_path)
    assert state_checks.check_stamp(config).seen == "none"
    config.state.mkdir()
    (config.state / "version.json").write_text(json.dumps(stamp))
    found = state_checks.check_stamp(config)
    assert found.state == state
    assert words in found.seen


def test_ports(tmp_path: Path) -> None:
    with silent() as taken:
        found = by_name(checks.check_ports(client(tmp_path, node_port=taken, metrics_port=closed_port())))
    assert (found["node port"].state, found["node port"].code) == ("fail", "OF141")
    assert found["metrics port"].state == "ok"
    assert [f.name for f in checks.check_ports(client(tmp_path))] == ["node port"]


# Data -----------------------------------------------------------------------------------------------------------------

SITE_TOML = """
name = "ct"
modality = "ct"
image_size = [32, 32]
labels = {0 = "background", 1 = "disc"}
normalisation = {kind = "minmax"}
"""


def write_data(folder: Path, toml: str = SITE_TOML, n: int = 6) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.fromarray(np.full((32, 32), 7 * i, np.uint8)).save(folder / f"i{i}.png")
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(folder / f"m{i}.png")
    rows = [f"i{i}.png,m{i}.png,SMITH-{i // 2}" for i in range(n)]
    (folder / "index.csv").write_text("\n".join(["image,mask,patient", *rows]) + "\n")
    if toml:
        (folder / "site.toml").write_text(toml)
    return folder


def data(folder: Path, **changes: object) -> dict[str, Finding]:
    found = by_name(data_checks.check_data(client(folder, **changes)))
    assert not any("SMITH" in f"{f}" or "i0.png" in f"{f}" for f in found.values()), "a patient is named"
    return found


def test_good_data(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    found = data(tmp_path)
    assert {f.state for f in found.values()} == {"ok"}
    assert found["data"].seen == (
        "6 rows of 3 patients, 6 with a mask; 0 of 6 with a file missing, 0 of 6 read whole unusable"
    )


def test_missing_data(tmp_path: Path) -> None:
    found = data(tmp_path)["data"]
    assert (found.state, found.code) == ("fail", "OF130")
    (tmp_path / "data").mkdir()
    assert data(tmp_path)["data"].code == "OF201"


def test_missing_and_broken_files(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", SITE_TOML + "unreadable_limit = 0.2\n")
    (folder / "i0.png").unlink()
    found = data(tmp_path)["data"]
    assert (found.state, found.code) == ("warn", "OF210")
    assert "1 of 6 with a file missing, 1 of 6 read whole unusable" in found.seen
    (folder / "m1.png").unlink()
    assert data(tmp_path)["data"].state == "fail"


def test_wrong_contract(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", SITE_TOML + "colour = 1\n")
    found = data(tmp_path)["data"]
    assert found.code == "OF102"
    assert "colour" in found.seen
    (folder / "site.toml").write_text(SITE_TOML)
    (folder / "index.csv").write_text("image,mask,patient,split\ni0.png,m0.png,SMITH,train\ni1.png,m1.png,SMITH,val\n")
    assert data(tmp_path)["data"].code == "OF206"


def test_names_and_proposals(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data")
    found = data(tmp_path, site="mri")["site name"]
    assert (found.state, found.seen) == ("fail", "started as mri, the data says ct")
    (folder / "site.toml").unlink()
    found = data(tmp_path, site="data")
    assert "no site.toml, a proposal is used" in found["data"].seen
    assert found["site name"].state == "ok"


def test_without_masks(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data")
    (folder / "index.csv").write_text("image,mask,patient\ni0.png,,p\n")
    assert (data(tmp_path)["data"].state, data(tmp_path)["data"].code) == ("warn", "OF402")


# The whole ------------------------------------------------------------------------------------------------------------


def test_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MIN_MEMORY_BYTES", 0)
    write_data(tmp_path / "data")
    with coordinator() as server:
        found = doctor.examine(client(tmp_path, server.port, min_free_gb=0))
    assert [f.name for f in found if f.state == "fail"] == []
    assert [f.name for f in found] == [
        "versions", "identity", "proxy", "name", "coordinator", "tls", "clock", "disk", "memory", "state folder",
        "earlier state", "policy", "audit log", "node port", "device", "data", "site name",
    ]  # fmt: skip
    out = io.StringIO()
    assert doctor.print_findings(found, Console(file=out, width=100)) == 0
    assert "This site can join." in out.getvalue()


def test_a_check_that_hangs_or_breaks_is_a_finding(tmp_path: Path) -> None:
    def broken(config: ClientConfig) -> Finding:
        raise OmniFedError("OF103", "rule [red]")

    table = {
        "slow": lambda config: time.sleep(30) or [],
        "broken": broken,
        "good": lambda config: Finding("good", "ok", "[/x] fine"),
    }
    start = time.monotonic()
    found = doctor.examine(client(tmp_path), limit_s=0.3, table=table)
    assert time.monotonic() - start < 2
    assert [(f.name, f.state, f.code) for f in found] == [
        ("slow", "fail", "OF142"), ("broken", "fail", "OF142"), ("good", "ok", ""),
    ]  # fmt: skip
    out = io.StringIO()
    assert doctor.print_findings(found, Console(file=out, width=80)) == 2
    text = out.getvalue()
    assert "[/x] fine" in text, "no value is read as markup"
    assert "rule [red]" in text.replace("\n", " ")
    assert "2 to resolve" in text


def test_a_hanging_check_does_not_keep_the_command_from_ending(tmp_path: Path) -> None:
    script = (
        "import time; from omnifed_client.config import load_client; from omnifed_client.doctor import examine\n"
        "config, table = load_client('ct', data='.', state='s'), {'x': lambda c: time.sleep(60)}\n"
        "print(examine(config, limit_s=0.2, table=table)[0].code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, cwd=tmp_path)
    assert done.stdout.strip() == "OF142", done.stderr
