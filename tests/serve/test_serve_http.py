"""The page's HTTP interface, against a server process and the real command."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served_files import by_command_line, png
from waiting import until

from omnifed.data.readers.dicom import read
from omnifed.data.readers.dicom_seg import read_mask


def client(server: Any) -> httpx.Client:
    return httpx.Client(base_url=server.address, timeout=60, trust_env=False)


def announce(page: httpx.Client, files: int = 1, size: int = 1) -> httpx.Response:
    return page.post("/jobs", json={"files": files, "bytes": size})


def send(page: httpx.Client, files: list[bytes], suffix: str) -> str:
    job = str(announce(page, len(files), sum(map(len, files))).json()["id"])
    for k, content in enumerate(files):
        assert page.put(f"/jobs/{job}/files/{k}?suffix={suffix}", content=content).status_code == 201
    assert page.post(f"/jobs/{job}/start").status_code == 202
    return job


def finished(page: httpx.Client, job: str) -> dict[str, Any]:
    for _ in range(600):
        said: dict[str, Any] = page.get(f"/jobs/{job}").json()
        if said["state"] in ("done", "failed"):
            return said
        time.sleep(0.05)
    raise AssertionError("the job never ended")


def error_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def test_an_image_gives_what_the_command_line_gives(server: Any, model: Path, tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    mask, drawn = by_command_line(model, tmp_path / "a.png", tmp_path / "out")
    with client(server) as page:
        job = send(page, [png()], ".png")
        (result,) = finished(page, job)["results"]
        assert {key: result[key] for key in ("file", "suffix", "kind", "slices", "overlays")} == {
            "file": 0, "suffix": ".png", "kind": "image", "slices": 1, "overlays": 1,
        }  # fmt: skip
        assert set(result["labels"]) == {"liver", "left kidney"}
        assert not [path for path in server.left() if path.parent.name == "in"]  # images go first
        assert page.get(f"/jobs/{job}/results/0/output").content == mask.read_bytes()
        assert page.get(f"/jobs/{job}/results/0/pictures/0").content == drawn.read_bytes()
        assert error_of(page.get(f"/jobs/{job}/results/0/pictures/1")) == "OF658"
        assert error_of(page.get(f"/jobs/{job}/results/1/output")) == "OF658"
        assert error_of(page.put(f"/jobs/{job}/files/9", content=b"late")) == "OF658"
        assert page.delete(f"/jobs/{job}").status_code == 204
        assert server.left() == []
        assert error_of(page.get(f"/jobs/{job}")) == "OF658"


def test_a_series_gives_a_segmentation_and_a_picture_a_slice(
    server: Any, series: tuple[Path, Path, list[Path]], tmp_path: Path
) -> None:
    folder, seg, drawn = series
    with client(server) as page:
        job = send(page, [file.read_bytes() for file in sorted(folder.iterdir())], ".dcm")
        (result,) = finished(page, job)["results"]
        assert {key: result[key] for key in ("file", "suffix", "kind", "slices", "overlays")} == {
            "file": None, "suffix": "_seg.dcm", "kind": "dicom", "slices": 3, "overlays": 3,
        }  # fmt: skip
        (tmp_path / "served.dcm").write_bytes(page.get(f"/jobs/{job}/results/0/output").content)
        for k, path in enumerate(drawn):
            assert page.get(f"/jobs/{job}/results/0/pictures/{k}").content == path.read_bytes()
        page.delete(f"/jobs/{job}")
    picture = read(folder)
    np.testing.assert_array_equal(read_mask(tmp_path / "served.dcm", picture), read_mask(seg, picture))
    assert [int((mask > 0).sum()) for mask in read_mask(seg, picture)] == [64, 128, 192]


def test_no_image_is_told_by_number_and_without_the_servers_paths(server: Any) -> None:
    with client(server) as page:
        job = send(page, [b"this is a text"], ".png")
        said = finished(page, job)
        assert (said["results"], [error["code"] for error in said["errors"]]) == ([], ["OF211"])
        assert said["errors"][0]["remedy"]
        assert str(server.room) not in str(said)
        page.delete(f"/jobs/{job}")
        job = send(page, [png(), b"this is a text"], ".png")  # one bad file does not stop the other
        said = finished(page, job)
        assert ([one["file"] for one in said["results"]], [e["code"] for e in said["errors"]]) == ([0], ["OF211"])
        assert "00001" in said["errors"][0]["seen"]
        page.delete(f"/jobs/{job}")


def test_what_is_announced_too_large_is_refused(server: Any) -> None:
    with client(server) as page:
        for files, size, code in ((1, 2_000_000_000, "OF653"), (4097, 10, "OF654")):
            answer = announce(page, files, size)
            assert (answer.status_code, error_of(answer)) == (413, code)
        for wrong in (b"{}", b"[" * 500, b'{"files":1,"bytes":1,"path":"/etc"}', b'{"files":0,"bytes":0}', b"x" * 5000):
            assert page.post("/jobs", content=wrong).status_code == 400


@pytest.mark.parametrize("chunked", [True, False])
def test_two_gigabytes_are_cut_off_at_the_limit(server: Any, chunked: bool) -> None:
    with client(server) as page:
        job = announce(page).json()["id"]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {2 * 10**9}"
            line.sendall(
                f"PUT /jobs/{job}/files/0 HTTP/1.1\r\nHost: localhost:{server.port}\r\n{length}\r\n\r\n".encode()
            )
            sent = 0
            if chunked:
                piece = b"10000\r\n" + bytes(2**16) + b"\r\n"
                try:
                    while sent < 200 * 2**20:
                        line.sendall(piece)
                        sent += 2**16
                except OSError:
                    pass
            answer = b""
            while not answer.endswith(b"}}"):
                answer += line.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b'"OF653"' in answer
        assert sent < 100 * 2**20
        assert server.left() == []
        page.delete(f"/jobs/{job}")


def test_an_upload_that_breaks_off_leaves_nothing(server: Any) -> None:
    with client(server) as page:
        job = announce(page).json()["id"]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(
                f"PUT /jobs/{job}/files/0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc".encode()
            )
            # Broken off before the file is there, the test would look before the server had begun.
            until(server.left)
        until(lambda: not server.left())
        page.delete(f"/jobs/{job}")


def test_names_are_never_paths(server: Any) -> None:
    with client(server) as page:
        job = announce(page).json()["id"]
        for number, name in enumerate(["/../../../x", "%2e%2e%2fx", ".png/../../x", "\0.png", ".PNG"]):
            page.put(f"/jobs/{job}/files/{number}", params={"suffix": name}, content=b"x")
        assert {path.name for path in server.left()} == {f"{number:05}" for number in range(5)}
        assert page.put(f"/jobs/{job}/files/..%2f..%2fx", content=b"x").status_code == 404
        assert page.put(f"/jobs/{job}/files/-1", content=b"x").status_code == 404
        assert error_of(page.put(f"/jobs/{job}/files/0", content=b"again")) == "OF658"
        page.delete(f"/jobs/{job}")
        for path in ("/../pyproject.toml", "/page.html", "/jobs", "/%2e%2e/x"):
            assert page.get(path).status_code in (404, 405)


def test_at_most_eight_jobs(server: Any) -> None:
    with client(server) as page:
        jobs = [announce(page).json()["id"] for _ in range(8)]
        answer = announce(page)
        assert (answer.status_code, error_of(answer)) == (503, "OF659")
        for job in jobs:
            page.delete(f"/jobs/{job}")
        job = announce(page).json()["id"]
        assert error_of(page.get("/jobs/" + job[::-1])) == "OF658"
        page.delete(f"/jobs/{job}")


def test_other_sites_get_nothing(server: Any) -> None:
    with client(server) as page:
        for host in ("evil.example", f"evil.example:{server.port}", "10.0.0.7", "localhost.evil.example", ""):
            answer = page.get("/model", headers={"Host": host})
            assert (answer.status_code, error_of(answer)) == (403, "OF655"), host
        for origin in ("http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"):
            answer = page.post("/jobs", json={"files": 1, "bytes": 1}, headers={"Origin": origin})
            assert (answer.status_code, error_of(answer)) == (403, "OF655"), origin
        own = page.post("/jobs", json={"files": 1, "bytes": 1}, headers={"Origin": server.address})
        assert own.status_code == 201
        assert page.delete(f"/jobs/{own.json()['id']}", headers={"Origin": "http://evil.example"}).status_code == 403
        page.delete(f"/jobs/{own.json()['id']}")
        asked = page.options(
            "/jobs", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        )
        assert asked.status_code == 403
        assert page.get("/", headers={"Host": f"localhost:{server.port}"}).status_code == 200


def test_every_answer_is_kept_out_of_caches_and_frames(server: Any) -> None:
    with client(server) as page:
        for answer in (page.get("/"), page.get("/page.js"), page.get("/nowhere"), page.get("/", headers={"Host": "x"})):
            headers = answer.headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'self'")
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert not [name for name in headers if name.startswith("access-control")]
            assert "server" not in headers
        html = page.get("/").text
        assert "http://" not in html
        assert "https://" not in html
        assert "not a medical device" in html


def test_the_model_and_health(server: Any, model: Path) -> None:
    with client(server) as page:
        said = page.get("/model").json()
        assert (said["name"], said["size"], said["max_mb"]) == ("threshold", [32, 32], 1)
        assert said["labels"] == [
            {"name": "liver", "colour": "#56b4e9"},
            {"name": "left kidney", "colour": "#e69f00"},
        ]
        health = page.get("/healthz").json()
        assert health == {"status": "ok", "model": said["sha256"], "busy": False}


def test_a_prediction_is_killed_at_the_time_limit(start: Callable[..., Any]) -> None:
    server = start("--limit-s", "0.1")
    with client(server) as page:
        said = finished(page, send(page, [png()], ".png"))
        assert (said["state"], [error["code"] for error in said["errors"]]) == ("failed", ["OF656"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_at_the_end(start: Callable[..., Any], number: int) -> None:
    server = start()
    with client(server) as page:
        send(page, [png()], ".png")
        announce(page)
        assert (next(server.room.iterdir()).stat().st_mode & 0o777) == 0o700
    assert server.end(number) == 0
    assert list(server.room.iterdir()) == []


def test_the_page_is_for_this_machine_unless_permitted(model: Path, start: Callable[..., Any]) -> None:
    def refused(*options: str) -> str:
        code = "from omnifed.cli.app import app; app()"
        done = subprocess.run(
            [sys.executable, "-c", code, "serve", str(model), *options], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert "OF651" in refused("--host", "0.0.0.0", "--port", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "OF652" in refused("--port", str(taken.getsockname()[1]))
    server = start("--host", "0.0.0.0", "--allow-remote")
    assert httpx.get(f"http://127.0.0.1:{server.port}/healthz", trust_env=False).json()["status"] == "ok"
    answer = httpx.get(f"http://127.0.0.1:{server.port}/", headers={"Host": "evil.example"}, trust_env=False)
    assert answer.status_code == 403
    server.process.send_signal(signal.SIGTERM)
    assert "no log-in" in server.process.communicate(timeout=20)[1]
