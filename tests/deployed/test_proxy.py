"""A real nginx, the example's configuration and a made authority: one site directly, one behind a hospital's proxy."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Federation, wait

from omnifed.processes import free_port, listens

HOST = "fed.example.org"
"""Resolves nowhere: a client that reaches it has asked the hospital's proxy."""
EXAMPLE = Path(__file__).parents[2] / "server" / "example"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NGINX, reason="nginx is not installed (Debian: apt-get install nginx-light)"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]


@contextmanager
def published(folder: Path, coordinator: int) -> Iterator[int]:
    """nginx as the example configures it, on a free port; only addresses and paths differ."""
    port = free_port()
    subprocess.run(["sh", str(EXAMPLE / "make-certificate.sh"), HOST, "localhost"], cwd=folder, check=True)
    site = (EXAMPLE / "nginx.conf").read_text()
    for example, here in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "/etc/omnifed/tls": str(folder / "tls"),
        "/var/log/nginx": str(folder),
        "127.0.0.1:8000": f"127.0.0.1:{coordinator}",
    }.items():
        assert example in site
        site = site.replace(example, here)
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(f"{kind}_temp_path {folder}/tmp-{kind};" for kind in ("client_body", "proxy"))
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{}}\nhttp {{ {temporary}\n{site} }}\n"
    )
    server = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", "nginx.conf"])
    try:
        wait(lambda: listens("127.0.0.1", port), 10, "nginx")
        yield port
    finally:
        server.terminate()
        server.wait(10)


class HospitalProxy:
    """An HTTP proxy that permits one thing, CONNECT to the coordinator's published address, and counts it."""

    def __init__(self, target: int) -> None:
        self.target, self.tunnels, self.refused = target, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (data := client.recv(4096)):
            head += data
        if head.split(b" ")[:2] != [b"CONNECT", f"{HOST}:443".encode()]:
            self.refused += 1
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            client.close()
            return
        self.tunnels += 1
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def ask(port: int, roots: Path, method: str, path: str) -> int:
    """Status of a request from outside; the path goes out exactly as it stands."""
    context = ssl.create_default_context(cafile=str(roots))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        link = context.wrap_socket(raw, server_hostname=HOST)
        link.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = http.client.HTTPResponse(link)
        answer.begin()
        return answer.status


def write_site(federation: Federation, site: str, server: str) -> Path:
    """What a hospital writes: sites/NAME.toml."""
    file = federation.folder / "sites" / f"{site}.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'data = "{federation.data(site)}"\nserver = "{server}"\nroot_certificates = "../tls/ca.pem"\n'
        f'state = "{federation.state(site)}"\nmin_free_gb = 0.1\n'
    )
    return file


def test_trains_through_proxies(tmp_path: Path) -> None:
    with Federation(tmp_path, ("north", "east"), rounds=1, stages=["prepare", "train"]) as federation:
        with published(tmp_path, federation.port) as port:
            hospital = HospitalProxy(port)
            through = {
                "HTTPS_PROXY": f"http://127.0.0.1:{hospital.port}",
                "HTTP_PROXY": f"http://127.0.0.1:{hospital.port}",
            }
            write_site(federation, "north", f"{HOST}:443")
            write_site(federation, "east", f"localhost:{port}")
            federation.start_server()
            wait(lambda: listens("127.0.0.1", federation.port), 60, "the coordinator")
            for site in federation.sites:
                environment = through if site == "north" else {}
                federation.clients[site] = federation._start(
                    f"client-{site}.log", ["omnifed-client", "--site", site], environment
                )
            roots = tmp_path / "tls" / "ca.pem"
            closed = [
                "/", "/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/pull-pending-tasks", "/docs",
                "/openapi.json", "/v1/fleet/../control/list-runs", "/v1/fleet/..%2fcontrol/list-runs",
                "/v1/fleet/%2e%2e/control/list-runs", "//v1//control/list-runs", "/V1/CONTROL/list-runs", "/health/x",
            ]  # fmt: skip
            assert {path: ask(port, roots, "POST", path) for path in closed} == dict.fromkeys(closed, 404)
            # What is hidden is really there, on loopback.
            with pytest.raises(urllib.error.HTTPError) as answer:
                urllib.request.urlopen(f"http://127.0.0.1:{federation.port}/v1/control/list-runs", b"", timeout=10)
            assert answer.value.code not in (404, 502)
            assert ask(port, roots, "GET", "/v1/fleet/pull-messages") == 403
            assert ask(port, roots, "POST", "/health") == 403
            assert ask(port, roots, "GET", "/health") == 200
            federation.env |= through
            doctor = federation.command("omnifed-client", "doctor", "--site", "north")
            assert f"{HOST}:443 is healthy" in " ".join(doctor.stdout.split()), doctor.stdout + doctor.stderr
            assert federation.finish() == 0
        federation.check_counts()
        assert hospital.tunnels >= 3
        assert hospital.refused == 0
        assert "413" not in (tmp_path / "omnifed.log").read_text()
        assert not federation.left_behind()
