"""What a site's client must know: which site, where its data lies, where the coordinator is. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from omnifed.config import Frozen, load_toml, parse
from omnifed.errors import OmniFedError
from omnifed_client.addresses import is_loopback, split_address

PATHS = ("data", "state", "root_certificates", "checkpoints")
"""Keys that hold paths: relative ones in a file are relative to that file, on a command line to the working folder."""


class ClientConfig(Frozen):
    """One site's client. Every key but ``site`` and ``data`` has a default.

    Attributes:
        site: the registered name, the same as ``name`` in the data's site.toml.
        data: folder of the site: site.toml, index.csv and what it names.
        server: the coordinator's address, HOST:PORT ([::1]:8000 for IPv6), without ``https://``. Default: that of the
            kit with which the site has joined, with ``insecure`` 127.0.0.1:8000; "" before it has joined.
        state: private folder of the client: teacher, cache, models, finished replies. Default
            ``$XDG_STATE_HOME/omnifed/SITE`` or ``~/.local/state/omnifed/SITE``.
        root_certificates: PEM file of the authority that signed the coordinator's certificate; "" takes the kit's.
        insecure: plain HTTP without identity, for loopback addresses only.
        checkpoints: folder of SAM checkpoints; "" where the site has none.
        node_port: local port of Flower's node; 0 chooses a free one.
        metrics_port: local port of the Prometheus page; 0 switches it off.
        threads: CPU threads of the training; 0 takes half of the cores.
        min_free_gb: GB (1e9 bytes) that must be free at ``state``.
    """

    site: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    data: Path
    server: str = ""
    state: Path
    root_certificates: str = ""
    insecure: bool = False
    checkpoints: str = ""
    node_port: int = Field(0, ge=0, le=65535)
    metrics_port: int = Field(0, ge=0, le=65535)
    threads: int = Field(0, ge=0)
    min_free_gb: float = Field(2.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("state") and isinstance(values.get("site"), str):
            values = {**values, "state": default_state(values["site"])}
        if isinstance(values, Mapping) and values.get("insecure") is True and not values.get("server"):
            values = {**values, "server": "127.0.0.1:8000"}
        return values

    @field_validator("server")
    @classmethod
    def _address(cls, server: str) -> str:
        host, port = split_address(server)
        if server and (not host or not 0 < port < 65536):
            raise ValueError("server must be HOST:PORT without https://, for example omnifed.example.org:443")
        return server

    @model_validator(mode="after")
    def _plain_http(self) -> ClientConfig:
        if self.insecure and not self.loopback:
            raise OmniFedError(
                "OF131",
                "Plain HTTP is for loopback addresses only.",
                seen=f"insecure = true with server {self.server}",
                remedy="Remove insecure, and join the federation: omnifed-client enrol.",
            )
        if self.insecure and self.root_certificates:
            raise OmniFedError(
                "OF132",
                "Plain HTTP and root certificates exclude each other.",
                seen="both insecure and root_certificates",
                remedy="Remove one of the two.",
            )
        return self

    @property
    def host(self) -> str:
        """Host of the coordinator, without port and brackets."""
        return split_address(self.server)[0]

    @property
    def port(self) -> int:
        """Port of the coordinator."""
        return split_address(self.server)[1]

    @property
    def scheme(self) -> Literal["http", "https"]:
        """What the connection speaks."""
        return "http" if self.insecure else "https"

    @property
    def loopback(self) -> bool:
        """Whether the coordinator's address is this machine."""
        return is_loopback(self.host)

    @property
    def identity(self) -> Path:
        """Folder of the site's keys and kit."""
        return self.state / "identity"

    @property
    def roots(self) -> str:
        """PEM file of the authorities behind the coordinator's certificate; "" takes the usual ones."""
        of_kit = self.identity / "ca.pem"
        return self.root_certificates or (str(of_kit) if not self.insecure and of_kit.is_file() else "")

    @property
    def worker_threads(self) -> int:
        """CPU threads for torch: ``threads``, or half of the cores that this process may use."""
        return self.threads or max(1, cores() // 2)


def cores() -> int:
    """CPU cores that this process may use; a container may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_state(site: str) -> Path:
    """The private folder of a site's client where the configuration names none."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "omnifed" / site


def config_places(site: str) -> tuple[Path, ...]:
    """Where a site's configuration is looked for, in this order."""
    return Path("sites") / f"{site}.toml", _xdg("XDG_CONFIG_HOME", ".config") / "omnifed" / "sites" / f"{site}.toml"


def find_config(site: str) -> Path | None:
    """The configuration file of a site: ``./sites/SITE.toml``, then the user's configuration folder; None if absent."""
    return next((path for path in config_places(site) if path.is_file()), None)


def load_client(site: str, *, file: Path | None = None, **options: Any) -> ClientConfig:
    """Reads the configuration of a site; without a file the options and defaults alone make it.

    Args:
        site: the registered name.
        file: read this file instead of looking for one.
        options: keys of :class:`ClientConfig`; those that are not None win over the file.

    Raises:
        OmniFedError: OF101 unreadable file, OF102 wrong key, OF130 no data folder, OF131 plain HTTP beyond loopback,
            OF132 plain HTTP with certificates, OF133 the file is another site's.
    """
    given = {key: value for key, value in options.items() if value is not None}
    # The name first: it becomes part of the paths that are looked at.
    parse(ClientConfig, {"site": site, "data": ".", "state": "."}, "--site")
    path = file or find_config(site)
    values = _read(path) if path else {}
    if values.get("site", site) != site:
        raise OmniFedError(
            "OF133",
            "A site must have one registered name everywhere.",
            seen=f"{path} is for {values['site']!r}, asked for {site!r}",
            remedy="Correct `site` in the file, or start the client with that name.",
        )
    merged = {**values, "site": site, **{key: _absolute(key, value, Path.cwd()) for key, value in given.items()}}
    if not merged.get("data"):
        raise OmniFedError(
            "OF130",
            "A client must be told where its data lies.",
            seen=f"no `data` in {path}"
            if path
            else "no file " + ", ".join(str(p.absolute()) for p in config_places(site)),
            remedy='Give --data DIR, or write `data = "DIR"` into one of these files.',
        )
    source = " and ".join([*([str(path)] if path else []), *(["the command line"] if given or not path else [])])
    config = parse(ClientConfig, merged, source)
    return config if config.server else config.model_copy(update={"server": _server_of_kit(config)})


class _Raw(BaseModel):
    model_config = ConfigDict(extra="allow")


def _read(path: Path) -> dict[str, Any]:
    values = load_toml(_Raw, path).model_extra or {}
    return {key: _absolute(key, value, path.absolute().parent) for key, value in values.items()}


def _server_of_kit(config: ClientConfig) -> str:
    from omnifed.trust.kit import open_kit
    from omnifed.trust.signing import Signed

    try:
        return open_kit(Signed.read((config.identity / "kit.json").read_bytes(), "kit.json")).server
    except (OSError, OmniFedError):
        return ""  # who needs the kit itself says what is wrong with it


def _absolute(key: str, value: Any, base: Path) -> Any:
    """``value`` with ``~`` and relative paths resolved where the key holds a path; "" stays "" (none)."""
    if key not in PATHS or not isinstance(value, (str, Path)) or not str(value):
        return value
    return os.path.normpath(base / os.path.expanduser(value))


def _xdg(variable: str, below_home: str) -> Path:
    folder = Path(os.environ.get(variable, ""))
    # The XDG specification: a relative path is to be ignored.
    return folder if folder.is_absolute() else Path(os.path.expanduser("~")) / below_home
