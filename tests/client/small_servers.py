"""Coordinators, proxies and certificates of the size of a test: real sockets on loopback, in threads."""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


class Handler(BaseHTTPRequestHandler):
    """Answers GET; as a proxy also CONNECT and absolute addresses."""

    server: Coordinator

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.wants_login and not self.headers.get("Proxy-Authorization"):
            return self._answer(407)
        return self._answer(self.server.status, self.server.bodies.get(self.path, b""))

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response_only(status)
        if self.server.clock_s is not None:
            self.send_header("Date", formatdate(time() + self.server.clock_s, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        if self.server.wants_login and not self.headers.get("Proxy-Authorization"):
            return self.send_error(407)
        with socket.create_connection(("127.0.0.1", self.server.tunnel_to)) as other:
            self.send_response_only(200)
            self.end_headers()
            self.wfile.flush()
            pipe(self.connection, other)
        self.close_connection = True
        return None

    def log_message(self, *args: object) -> None:
        pass


def pipe(left: socket.socket, right: socket.socket) -> None:
    while True:
        for source in select.select([left, right], [], [], 5)[0] or [None]:
            data = source.recv(65536) if source else b""
            if not data:
                return
            (right if source is left else left).sendall(data)


class Coordinator(ThreadingHTTPServer):
    """A server whose answers a test sets."""

    status = 200
    clock_s: float | None = 0.0
    wants_login = False
    tunnel_to = 0
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.bodies: dict[str, bytes] = {}

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, *args: object) -> None:
        """A handshake that the client breaks off is what these tests are about."""


@contextmanager
def coordinator(certificate: Path | None = None, **settings: object) -> Iterator[Coordinator]:
    server = Coordinator()
    for name, value in settings.items():
        setattr(server, name, value)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake in the thread of the connection, not in accept().
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.roots = folder / f"{name.replace(' ', '-')}.pem"
        self.roots.write_bytes(self._sign(self.name, self.key, [], (-10, 100), authority=True))

    def issue(self, *names: str, days: tuple[float, float] = (-1, 90)) -> Path:
        """A PEM file with key and certificate for ``names``, valid from ``days[0]`` to ``days[1]`` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        path = self.folder / f"{names[0]}-{days[0]}-{days[1]}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + self._sign(subject, key, list(names), days))
        return path

    def _sign(
        self, subject: x509.Name, key: Key, names: list[str], days: tuple[float, float], *, authority: bool = False
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        start, end = (now + datetime.timedelta(days=d) for d in days)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
