"""The real nginx in front of a port that notes what reaches it: what sites need comes through, and nothing else."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest
from waiting import until

from omnifed.errors import OmniFedError
from omnifed.processes import free_port, listens
from omnifed.trust.authority import found
from omnifed_server.federation_file import FederationConfig
from omnifed_server.front import Front, site_block
from omnifed_server.supervisor import Coordinator

EXAMPLE = Path(__file__).parents[2] / "server" / "example" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(not NGINX, reason="nginx is not installed (Debian: apt-get install nginx-light)")
KEY = "0f" * 32
FLEET = ("activate-node", "pull-messages", "push-object", "send-node-heartbeat", "get-fab")


class Upstream(ThreadingHTTPServer):
    """Notes each request, and answers 200."""

    daemon_threads = True

    def __init__(self, identity: Path) -> None:
        super().__init__(("127.0.0.1", 0), Note)
        self.seen: list[tuple[str, str]] = []
        self.sizes: list[int] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity / "server.pem", identity / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Note(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.server.seen.append((self.command, self.path))
        self.server.sizes.append(len(self.rfile.read(int(self.headers.get("Content-Length") or 0))))
        self.send_response_only(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *about: object) -> None:
        pass


@contextmanager
def fronted(folder: Path, identity: Path, upstream: int) -> Iterator[Front]:
    port = free_port()
    front = Front("127.0.0.1", port, identity, upstream, folder / "a folder", folder / "logs" / "nginx.log")
    front.port = port  # type: ignore[attr-defined]
    front.start()
    try:
        until(lambda: listens("127.0.0.1", port) or front.child.poll() is not None)
        assert front.child.poll() is None, front.child.tail(20)
        yield front
    finally:
        front.stop()


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identity") / "coordinator"
    found(folder, "test", "fed.example.org:443")
    return folder


@pytest.fixture(scope="module")
def upstream(identity: Path) -> Iterator[Upstream]:
    server = Upstream(identity)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def front(identity: Path, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with fronted(tmp_path_factory.mktemp("front"), identity, upstream.server_port) as front:
        yield front


def ask(front: Front, identity: Path, *lines: str, body: bytes = b"") -> int:
    """Status of a request that goes out exactly as it stands; 0 if the connection was closed without one."""
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as raw:  # type: ignore[attr-defined]
        link = context.wrap_socket(raw, server_hostname="fed.example.org")
        head = [*lines, "Host: fed.example.org", f"Content-Length: {len(body)}", "Connection: close", "", ""]
        link.sendall("\r\n".join(head).encode("latin-1") + body)
        answer = http.client.HTTPResponse(link)
        try:
            answer.begin()
        except http.client.HTTPException:
            return 0
        return answer.status


@needs_nginx
def test_what_sites_need_comes_through(front: Front, identity: Path, upstream: Upstream) -> None:
    upstream.seen.clear()
    for name in FLEET:
        assert ask(front, identity, f"POST /v1/fleet/{name} HTTP/1.1") == 200
    assert ask(front, identity, "GET /health HTTP/1.1") == 200
    assert ask(front, identity, f"GET /v1/standing/{KEY} HTTP/1.1") == 200
    assert upstream.seen == [
        *(("POST", f"/v1/fleet/{name}") for name in FLEET), ("GET", "/health"), ("GET", f"/v1/standing/{KEY}"),
    ]  # fmt: skip


@needs_nginx
def test_weights_come_through_in_pieces_and_leave_no_file(front: Front, identity: Path, upstream: Upstream) -> None:
    upstream.sizes.clear()
    assert ask(front, identity, "POST /v1/fleet/push-object HTTP/1.1", body=bytes(6 * 2**20)) == 200
    assert upstream.sizes == [6 * 2**20]
    assert ask(front, identity, "POST /v1/fleet/push-object HTTP/1.1", body=bytes(17 * 2**20)) == 413
    assert upstream.sizes == [6 * 2**20]
    assert [path.name for path in front.folder.rglob("*") if path.is_file()] == ["nginx.conf", "nginx.pid"]


HIDDEN = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/control/register-node", "/v1/runtime/pull-task-input")
WAYS = (
    "{0}", "/{0}", "//{0}", "/v1/fleet/..{1}", "/v1/fleet/../..{0}", "/v1/fleet/%2e%2e{1}", "/v1/fleet/..%2f..{0}",
    "/v1/fleet/%2e%2e%2f%2e%2e{0}", "/v1/fleet/%252e%252e{1}", "/v1/fleet/x/../..{1}", "/v1/fleet/.{1}", "/v1/fleet{0}",
    "/v1/fleet/pull-messages/../..{1}", "/v1/fleet/..;{1}", "/v1/fleet/..\\..{0}", "/v1/fleet/%5c..{1}", "/v1/./..{0}",
    "/health/..{0}", "/health{0}", "/health/%2e%2e{0}", f"/v1/standing/{KEY}/../..{{1}}", "/v1/standing/..{1}",
    "{0}.", "{0}/.", "{0}/", "{0}?/v1/fleet/pull-messages", "/v1/fleet/?..{1}", "{0}#/v1/fleet/x", "{0}%00", "{0};x",
    "/v1/fleet/pull-messages?{0}", "https://fed.example.org{0}", "http://127.0.0.1:8000{0}", "/v1/fleet/%2f{1}",
    "/v1/fleet/pull-messages%0d%0a%0d%0aPOST%20{0}%20HTTP/1.1", "/v1/fleet/pull-messages%23/../..{0}",
)  # fmt: skip


@needs_nginx
def test_control_and_runtime_are_out_of_reach_however_they_are_asked_for(
    front: Front, identity: Path, upstream: Upstream
) -> None:
    """Fleet calls may come through, as what they are: never a path that the SuperLink could read otherwise."""
    upstream.seen.clear()
    answers = set()
    for way, path in product(WAYS, HIDDEN):
        for method in ("POST", "GET") if path == HIDDEN[0] else ("POST",):
            target = way.format(path, path.removeprefix("/v1"))
            answers.add(ask(front, identity, f"{method} {target} HTTP/1.1"))
        answers.add(ask(front, identity, f"POST {way.format(path.upper(), path.upper())} HTTP/1.1"))
    assert answers <= {0, 200, 400, 404, 405}
    assert {path for _, path in upstream.seen} <= {"/v1/fleet/pull-messages"}, "with its query cut off"


@needs_nginx
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "X"]
)
def test_other_methods_and_paths_stay_outside(front: Front, identity: Path, upstream: Upstream, method: str) -> None:
    upstream.seen.clear()
    paths = ["/", "/docs", "/openapi.json", "/v1/fleet/pull-messages", "/v1/fleet/", "/metrics", "/V1/FLEET/get-run"]
    paths += [f"/v1/standing/{KEY.upper()}", f"/v1/standing/{KEY}0", "/v1/standing/", "/health/", "/HEALTH"]
    answers = {ask(front, identity, f"{method} {path} HTTP/1.1") for path in paths}
    assert answers <= {400, 404, 405}
    for path in ("/health", f"/v1/standing/{KEY}"):
        assert method == "GET" or ask(front, identity, f"{method} {path} HTTP/1.1") in (400, 404, 405)
    assert upstream.seen == []


@needs_nginx
def test_headers_change_no_path(front: Front, identity: Path, upstream: Upstream) -> None:
    upstream.seen.clear()
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Forwarded-Prefix", "Host"):
        ask(front, identity, "POST /v1/fleet/pull-messages HTTP/1.1", f"{name}: /v1/control/start-run")
        assert ask(front, identity, "POST /x HTTP/1.1", f"{name}: /v1/control/start-run") in (400, 404)
    # Two lengths, or a length and chunks: what would be smuggled behind the first request is never one of its own.
    smuggled = b"0\r\n\r\nPOST /v1/control/start-run HTTP/1.1\r\nHost: x\r\n\r\n"
    ask(front, identity, "POST /v1/fleet/get-run HTTP/1.1", "Transfer-Encoding: chunked", body=smuggled)
    ask(front, identity, "POST /v1/fleet/get-run HTTP/1.1", "Content-Length: 0", body=smuggled)
    assert {path for _, path in upstream.seen} <= {"/v1/fleet/pull-messages", "/v1/fleet/get-run"}


@needs_nginx
def test_old_tls_is_refused(front: Front, identity: Path) -> None:
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=10) as raw,  # type: ignore[attr-defined]
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="fed.example.org")


@needs_nginx
def test_who_listens_on_the_superlinks_port_must_hold_its_certificate(identity: Path, tmp_path: Path) -> None:
    found(tmp_path / "other", "test", "fed.example.org:443")
    stranger = Upstream(tmp_path / "other")
    with fronted(tmp_path, identity, stranger.server_port) as front:
        assert ask(front, identity, "POST /v1/fleet/pull-messages HTTP/1.1", body=b"secret") == 502
    assert stranger.seen == []
    stranger.shutdown()
    stranger.server_close()


STARTER = """
import sys, time
from pathlib import Path
from omnifed_server.front import Front
host, port, identity, upstream, folder, log = sys.argv[1:]
front = Front(host, int(port), Path(identity), int(upstream), Path(folder), Path(log))
front.start()
print(front.child.pid, flush=True)
time.sleep(99)
"""


@needs_nginx
def test_it_ends_with_its_supervisor_and_what_is_left_is_cleared(identity: Path, tmp_path: Path) -> None:
    port = free_port()
    about = ["127.0.0.1", str(port), str(identity), "9", str(tmp_path / "n"), str(tmp_path / "nginx.log")]

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen([sys.executable, "-c", STARTER, *about], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        master = int(process.stdout.readline())
        until(lambda: listens("127.0.0.1", port))
        return process, master

    supervisor, _ = start()
    supervisor.kill()
    supervisor.wait()
    until(lambda: not listens("127.0.0.1", port))

    supervisor, master = start()
    until(Path(f"/proc/{master}/task/{master}/children").read_text)  # it listens a moment before it has workers
    supervisor.send_signal(signal.SIGSTOP)
    os.kill(master, signal.SIGKILL)  # its workers go on: nginx does not watch its master
    supervisor.kill()
    supervisor.wait()
    time.sleep(0.5)
    assert listens("127.0.0.1", port)
    Front("127.0.0.1", port, identity, 9, tmp_path / "n", tmp_path / "nginx.log").clear()
    until(lambda: not listens("127.0.0.1", port))


def test_without_nginx_the_remedy_is_named(identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    config = FederationConfig(sites=("north",), host="0.0.0.0", identity=str(identity))
    with pytest.raises(OmniFedError, match="nginx-light") as caught:
        Coordinator(config, tmp_path, lambda text: None)
    assert caught.value.code == "OF815"


@needs_nginx
def test_a_port_that_nginx_may_not_have_is_an_error_with_its_words(identity: Path, tmp_path: Path) -> None:
    config = FederationConfig(sites=("north",), host="192.0.2.1", port=free_port(), identity=str(identity))
    coordinator = Coordinator(config, tmp_path, lambda text: None)
    assert coordinator.front
    with pytest.raises(OmniFedError, match=r"192\.0\.2\.1") as caught:
        coordinator._start_front(coordinator.front)
    assert caught.value.code == "OF815"


@needs_nginx
@pytest.mark.parametrize(
    ("host", "front", "own"),
    [
        ("127.0.0.1", False, "127.0.0.1"),
        ("::1", False, "::1"),
        ("0.0.0.0", True, "127.0.0.1"),
        ("::", True, "127.0.0.1"),
    ],
)
def test_the_superlink_listens_on_this_machine_only(
    host: str, front: bool, own: str, identity: Path, tmp_path: Path
) -> None:
    config = FederationConfig(sites=("north",), host=host, port=4711, identity=str(identity))
    coordinator = Coordinator(config, tmp_path, lambda text: None)
    command = coordinator.link.command
    assert command[command.index("--host") + 1] == own
    assert (command[command.index("--port") + 1] == "4711") is not front
    assert (coordinator.front is not None) is front
    assert "--enable-supernode-auth" in command
    assert "--insecure" not in command


def test_the_example_is_what_runs() -> None:
    """For people with their own nginx: the same text with other addresses."""
    about = {"listen": ("443", "[::]:443"), "name": "fed.example.org", "superlink": 8000}
    block = site_block(identity=Path("/var/lib/omnifed-server/identity"), **about)
    header, _, rest = EXAMPLE.read_text().partition("\n\n")
    assert all(line.startswith("#") for line in header.splitlines())
    assert rest == block
