"""nginx in front of the SuperLink: what sites reach from outside, and nothing else.

Flower serves what sites need and what starts programs on one port. So the SuperLink listens on this machine only, and
nginx publishes three paths of it. The configuration is made from ``nginx.conf.template``, of which
``server/example/nginx.conf`` is a copy for people who have an nginx already.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.processes import Child

TEMPLATE = Path(__file__).with_name("nginx.conf.template")
PLACES = "/usr/sbin:/usr/local/sbin:/usr/local/bin"
"""Where nginx lies, as few users have these folders on their PATH."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_PDEATHSIG = 1


def site_block(*, listen: tuple[str, ...], name: str, identity: Path, superlink: int) -> str:
    """The part of nginx's configuration that publishes a SuperLink.

    Args:
        listen: addresses, ``443`` or ``ADDRESS:443``.
        name: of the host; ``_`` for any.
        identity: the coordinator's folder, which has the certificates.
        superlink: its port on 127.0.0.1.
    """
    text = TEMPLATE.read_text()
    lines = "\n".join(f"    listen {address} ssl;" for address in listen)
    values = {"LISTEN": lines, "NAME": name, "IDENTITY": str(identity), "SUPERLINK": str(superlink)}
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


class Front:
    """nginx as a supervised program.

    Args:
        host, port: to listen on.
        identity: the coordinator's folder.
        superlink: its port on 127.0.0.1.
        folder: for nginx's own files; made by :meth:`start`.
        log: what nginx says.

    Raises:
        OmniFedError: OF815 if there is no nginx.
    """

    def __init__(self, host: str, port: int, identity: Path, superlink: int, folder: Path, log: Path) -> None:
        nginx = shutil.which("nginx") or shutil.which("nginx", path=PLACES)
        if not nginx:
            raise no_front("no program nginx", "Install it (Debian: apt-get install nginx-light)")
        self.folder, self.log = folder.absolute(), log.absolute()
        address = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
        self._block = site_block(listen=(address,), name="_", identity=identity, superlink=superlink)
        file = self.folder / "nginx.conf"
        start = [sys.executable, "-m", "omnifed_server.front", str(os.getpid()), nginx]
        self.child = Child("nginx", [*start, "-e", "stderr", "-c", str(file)], self.log)

    def start(self) -> None:
        """Writes the configuration and starts nginx, after what is left of an earlier one has gone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = "\n".join(f'    {kind}_temp_path "{self.folder / kind}";' for kind in TEMPORARY)
        text = (
            f'daemon off;\npid "{self.folder / "nginx.pid"}";\nerror_log stderr warn;\nworker_processes 1;\n'
            f"events {{ worker_connections 1024; }}\nhttp {{\n    access_log off;\n{temporary}\n{self._block}}}\n"
        )
        write_atomic(self.folder / "nginx.conf", text.encode())
        self.clear()
        self.child.start()

    def keep_alive(self) -> int | None:
        """Starts nginx again if it has ended; the exit status that was noticed by this call."""
        status = self.child.keep_alive()
        if status is not None:
            self.clear()
        return status

    def stop(self) -> None:
        """Ends nginx."""
        self.child.stop()

    def clear(self) -> None:
        """Ends what is left of an nginx that was killed: it would keep the port. It is known by where it writes to."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if (
                    entry.name.isdigit()
                    and (entry / "comm").read_text().strip() == "nginx"
                    and os.readlink(entry / "fd" / "1").startswith(str(self.log))
                ):
                    os.kill(int(entry.name), signal.SIGKILL)


def no_front(seen: str, remedy: str) -> OmniFedError:
    """The error of a coordinator that cannot publish itself."""
    return OmniFedError(
        "OF815",
        "A coordinator that is reached from other machines stands behind nginx, which publishes what sites need only.",
        seen=seen,
        remedy=f'{remedy}, or set host = "127.0.0.1" and run a proxy of your own (server/example/nginx.conf).',
    )


def main() -> None:
    """``python -m omnifed_server.front PARENT NGINX ARGUMENT...`` becomes an nginx that ends with its parent."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(sys.argv[1]):
        os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
