"""A coordinator that other machines reach: the real nginx, one site directly, one behind a hospital's proxy."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from harness import Federation, wait

from omnifed.processes import listens

HOST = "fed.example.org"
"""Resolves nowhere: a client that reaches it has asked the hospital's proxy."""
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not NGINX, reason="nginx is not installed (Debian: apt-get install nginx-light)"),
]


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
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:  # at the end of a test nobody listens any more
            client.close()
            return
        with client, server:
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


def listening(pid: int) -> set[str]:
    """Addresses (hex, as the kernel shows them) on which a process listens, without ports."""
    found = set()
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def test_trains_through_proxies_and_control_stays_out_of_reach(tmp_path: Path) -> None:
    stages = ["prepare", "train"]
    fed = Federation(
        tmp_path, ("north", "east"), identity=True, address=f"{HOST}:443", host="0.0.0.0", rounds=2, stages=stages
    )
    with fed:
        hospital = HospitalProxy(fed.port)
        way = f"http://127.0.0.1:{hospital.port}"
        through = {"HTTPS_PROXY": way, "HTTP_PROXY": way}
        fed.start_server()
        wait(lambda: listens("127.0.0.1", fed.port), 60, "nginx")
        fed.start_client("north", env=through)  # by its kit: no address, no certificate, no option
        fed.start_client("east", server=f"localhost:{fed.port}")
        roots = fed.coordinator / "ca.pem"
        closed = [
            "/", "/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/pull-pending-tasks", "/docs",
            "/openapi.json", "/v1/fleet/../control/list-runs", "/v1/fleet/..%2fcontrol/list-runs",
            "/v1/fleet/%2e%2e/control/list-runs", "//v1//control/list-runs", "/V1/CONTROL/list-runs", "/health/x",
        ]  # fmt: skip
        assert {path: ask(fed.port, roots, "POST", path) for path in closed} == dict.fromkeys(closed, 404)
        # What is hidden is really there, on loopback alone.
        (superlink,) = fed.pids("superlink")
        (command,) = [process.command for process in fed.processes() if process.pid == superlink]
        own = int(command[command.index("--port") + 1])
        context = ssl.create_default_context(cafile=str(roots))
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"https://127.0.0.1:{own}/v1/control/list-runs", b"", timeout=10, context=context)
        assert answer.value.code not in (404, 502)
        assert own != fed.port
        assert listening(superlink) == {"0100007F"}
        assert ask(fed.port, roots, "GET", "/v1/fleet/pull-messages") == 404
        assert ask(fed.port, roots, "POST", "/health") == 404
        assert ask(fed.port, roots, "GET", "/health") == 200
        assert ask(fed.port, roots, "POST", "/v1/fleet/register-node") in (400, 401, 415, 422)

        fed.wait_event(lambda e: e["event"] == "aggregate")
        fed.env |= through
        where = ("--data", str(fed.data("north")), "--state", str(fed.state("north")))
        doctor = fed.command("omnifed-client", "doctor", "--site", "north", *where)
        seen = " ".join(doctor.stdout.split())
        assert f"{HOST}:443 is healthy" in seen, doctor.stdout + doctor.stderr
        assert f"{HOST}:443 knows this site's key" in seen
        assert fed.finish() == 0
        fed.check_counts()
        assert hospital.tunnels >= 3
        assert hospital.refused == 0
        assert "too large body" not in (fed.run / "logs" / "nginx.log").read_text()
        assert not fed.left_behind()


def test_the_proxy_ends_with_its_supervisor_and_comes_back_with_it(tmp_path: Path) -> None:
    fed = Federation(tmp_path, ("north",), identity=True, host="0.0.0.0", rounds=3, stages=["prepare", "train"])
    with fed:
        fed.start()
        fed.wait_event(lambda e: e["event"] == "round")
        fed.kill("nginx")
        wait(lambda: "nginx ended" in fed.log("server"), 30, "a line for the user")
        wait(lambda: listens("127.0.0.1", fed.port), 30, "nginx")
        fed.kill("server")
        assert fed.server
        fed.server.wait(5)
        wait(lambda: not fed.pids("nginx") and not listens("127.0.0.1", fed.port), 15, "the end of nginx")
        fed.start_server("resume", str(fed.run))
        assert fed.finish(200) == 0
        fed.check_counts()
        assert not fed.left_behind()
