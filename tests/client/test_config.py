"""The client's configuration: where it is found, what wins, what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError
from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed_client.config import ClientConfig, config_places, default_state, find_config, load_client, split_address

EXAMPLES = Path(__file__).parents[2] / "client" / "example"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def code(site: str = "ct", **options: object) -> str:
    with pytest.raises(OmniFedError) as caught:
        load_client(site, **options)
    return caught.value.code


def test_without_a_file_options_and_defaults_make_it(tmp_path: Path) -> None:
    found = load_client("ct", data="data", server=None)
    assert found.data == tmp_path / "work" / "data"
    assert found.state == tmp_path / "home" / ".local" / "state" / "omnifed" / "ct"
    assert (found.server, found.scheme, found.roots) == ("", "https", ""), "a site that has not joined knows no address"
    here = load_client("ct", data="data", insecure=True)
    assert (here.server, here.host, here.port, here.scheme) == ("127.0.0.1:8000", "127.0.0.1", 8000, "http")
    assert (found.node_port, found.metrics_port, found.min_free_gb) == (0, 0, 2.0)
    assert found.worker_threads >= 1
    assert load_client("ct", data=".", threads=3).worker_threads == 3


def test_the_working_folder_is_looked_at_before_the_users(tmp_path: Path) -> None:
    assert find_config("ct") is None
    user = write(tmp_path / "home/.config/omnifed/sites/ct.toml", 'data = "/user"')
    assert load_client("ct").data == Path("/user")
    write(tmp_path / "work/sites/ct.toml", 'data = "/here"')
    assert load_client("ct").data == Path("/here")
    assert load_client("ct", file=user).data == Path("/user")


def test_xdg_folders_count_unless_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    assert default_state("ct") == tmp_path / "s" / "omnifed" / "ct"
    assert config_places("ct")[1] == tmp_path / "c" / "omnifed" / "sites" / "ct.toml"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_state("ct") == tmp_path / "home" / ".local" / "state" / "omnifed" / "ct"


def test_paths_are_relative_to_where_they_are_written(tmp_path: Path) -> None:
    write(
        tmp_path / "work/sites/ct.toml",
        'data = "../images"\nstate = "~/s"\nroot_certificates = "ca.pem"\ncheckpoints = ""\nserver = "a.example:443"\n',
    )
    found = load_client("ct", server="b.example:8443")
    assert found.data == tmp_path / "work" / "images"
    assert found.state == tmp_path / "home" / "s"
    assert found.root_certificates == str(tmp_path / "work" / "sites" / "ca.pem")
    assert found.checkpoints == ""
    assert found.server == "b.example:8443"
    assert load_client("ct", data="images").data == tmp_path / "work" / "images"


def test_missing_data_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF130") as caught:
        load_client("ct")
    assert str(tmp_path / "work/sites/ct.toml") in caught.value.seen
    assert str(tmp_path / "home/.config/omnifed/sites/ct.toml") in caught.value.seen
    write(tmp_path / "work/sites/ct.toml", 'server = "127.0.0.1:1"')
    assert code() == "OF130"


@pytest.mark.parametrize("server", ["127.0.0.1:8000", "127.8.9.1:1", "localhost:8000", "[::1]:8000", "a.localhost:80"])
def test_plain_http_on_loopback(server: str) -> None:
    assert load_client("ct", data=".", server=server, insecure=True).scheme == "http"


@pytest.mark.parametrize(
    "server", ["10.0.0.1:8000", "omnifed.example.org:443", "localhost.example.org:80", "0.0.0.0:80"]
)
def test_plain_http_nowhere_else(server: str) -> None:
    assert code(data=".", server=server, insecure=True) == "OF131"
    assert load_client("ct", data=".", server=server).scheme == "https"


def test_contradictions_are_refused(tmp_path: Path) -> None:
    assert code(data=".", insecure=True, root_certificates="ca.pem") == "OF132"
    write(tmp_path / "work/sites/ct.toml", 'site = "mri"\ndata = "."')
    assert code() == "OF133"
    write(tmp_path / "work/sites/ct.toml", 'dta = "."\ndata = "."')
    assert code() == "OF102"
    write(tmp_path / "work/sites/ct.toml", "data = ")
    assert code() == "OF101"


@pytest.mark.parametrize("site", ["", "../ct", "CT", "a b", "ct/x"])
def test_a_site_has_a_registered_name(site: str) -> None:
    assert code(site, data=".") == "OF102"


def test_names_are_those_of_the_data() -> None:
    """Client and data must agree on what a registered name may be."""
    patterns = [
        {m.pattern for m in field.metadata if hasattr(m, "pattern")}
        for field in (ClientConfig.model_fields["site"], SiteConfig.model_fields["name"])
    ]
    assert patterns[0] == patterns[1] != set()


@pytest.mark.parametrize(
    "server",
    ["host", "host:", ":80", "host:0", "host:99999", "https://host:443", "host:80/path", "u@host:80", "::1:80"],
)
def test_an_address_is_host_and_port(server: str) -> None:
    assert code(data=".", server=server) == "OF102"


def test_a_site_that_has_joined_knows_address_and_authority_from_its_kit(tmp_path: Path) -> None:
    coordinator = tmp_path / "coordinator"
    found(coordinator, "test", "fed.example.org:443")
    own = default_state("ct") / "identity"
    join(own, admit(coordinator, enrol(own, "ct")))
    config = load_client("ct", data=".")
    assert (config.server, config.roots) == ("fed.example.org:443", str(own / "ca.pem"))
    other = load_client("ct", data=".", server="10.0.0.1:1", root_certificates="proxy.pem")
    assert (other.server, other.roots) == ("10.0.0.1:1", str(tmp_path / "work" / "proxy.pem"))
    alone = load_client("ct", data=".", insecure=True)
    assert (alone.server, alone.roots) == ("127.0.0.1:8000", "")
    (own / "kit.json").write_text("{")
    assert load_client("ct", data=".").server == "", "who needs the kit itself says what is wrong with it"


def test_ipv6_loses_its_brackets() -> None:
    assert split_address("[fe80::1]:443") == ("fe80::1", 443)


def test_the_examples_load() -> None:
    site = load_client("chaos_ct", file=EXAMPLES / "site.toml")
    for name, field in ClientConfig.model_fields.items():
        assert name in (EXAMPLES / "site.toml").read_text()
        if name not in ("site", "data", "state"):
            assert getattr(site, name) == field.default, name
    assert load_client("any", file=EXAMPLES / "loopback.toml").insecure


def test_it_starts_without_torch_and_flower() -> None:
    show = "import sys, omnifed_client.config, omnifed_client.doctor; print({'torch', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
