"""The process that reads, its decoders taken over: what it cannot do, and what nobody believes."""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import dicom, disc, grey, index, png

sys.path.insert(0, str(Path(__file__).parent / "hostile"))
import bad_decoders

from omnifed.config import Frozen
from omnifed.data.check import check_site
from omnifed.data.prepare import prepare
from omnifed.data.propose import write_site_toml
from omnifed.data.readers.registry import read_image, reading_run
from omnifed.data.sandbox import process, wire
from omnifed.data.sandbox.limits import Limits, limits_for
from omnifed.data.sandbox.process import SANDBOX, Nothing
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError

SMALL = limits_for(0)
NAMES = [name for name, value in vars(bad_decoders).items() if callable(value) and name.islower()]


@pytest.fixture(autouse=True)
def bad(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real process under its real limits, which knows the bad decoders too."""
    more = {name: f"bad_decoders:{name}" for name in NAMES}
    extra = f"from omnifed.data.sandbox import operations as o; o.OPERATIONS.update({more}); "
    start = "from omnifed.data.sandbox.child"
    assert start in process._START
    SANDBOX.close()
    monkeypatch.setattr(process, "_START", process._START.replace(start, extra + start))
    yield
    SANDBOX.close()


def ask(name: str, limits: Limits = SMALL, answer: type[Any] = Nothing, room: int = 2**31, **values: object) -> Any:
    return SANDBOX.ask(name, values, limits, answer, about="file", room=room)


def refused(number: str, name: str, limits: Limits = SMALL, **values: object) -> str:
    with pytest.raises(OmniFedError) as caught:
        ask(name, limits, **values)
    assert caught.value.code == number, str(caught.value)
    assert "DOE" not in caught.value.rule + caught.value.remedy
    return caught.value.seen


def test_limits_grow_with_the_file_and_have_an_end() -> None:
    assert limits_for(4 * 2**20) == SMALL == Limits(2.0, 512 * 2**20)
    assert limits_for(12 * 2**20, pixels=8 * 2**20) == Limits(2 + 2 + 4, (512 + 64) * 2**20)
    assert limits_for(2**40).memory == 4 * 2**30
    assert SMALL.wall_s == 20


def test_a_decoder_that_crashes_ends_its_process_and_the_next_file_is_read(tmp_path: Path) -> None:
    png(tmp_path / "a.png", grey())
    assert refused("OF880", "crash") == "file: exit status -11"
    assert SANDBOX.pid is None
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").slices[0].pixels, grey())


def test_time_is_processor_time_and_a_clock_for_those_that_sleep() -> None:
    assert "processor time" in refused("OF881", "spin", Limits(0.2, SMALL.memory))
    assert "no answer within 1 s" in refused("OF881", "sleep", Limits(0.1, SMALL.memory))


def test_memory_is_refused_before_it_is_taken() -> None:
    refused("OF882", "fill")


def test_texts_of_exceptions_stay_where_they_are() -> None:
    assert refused("OF880", "panic") == "file: Panic"
    assert refused("OF212", "quote") == "file: ValueError"


def test_rule_and_remedy_of_an_error_are_ours_and_its_number_is_one_of_a_reader() -> None:
    assert refused("OF216", "refuse", code="OF216", seen="a\x1b[2Jb" + 1000 * "c").startswith("file: a?[2Jbccc")
    assert len(refused("OF216", "refuse", code="OF216", seen=1000 * "c")) < 500
    for code in ("OF999", "OF821", "rm -rf"):
        refused("OF883", "refuse", code=code, seen="")


@pytest.mark.parametrize("head", [{"more": 1}, {"done": []}, {"": float("nan")}])
def test_answers_of_another_form_are_not_believed(head: dict[str, Any]) -> None:
    refused("OF883", "lie", head=head, bytes_=1)


def test_answers_larger_than_asked_for_are_not_received() -> None:
    assert len(ask("lie", head={}, bytes_=8)[1][0]) == 8
    with pytest.raises(OmniFedError, match="OF883"):
        ask("lie", room=7, head={}, bytes_=8)


def test_bytes_that_are_no_message_end_the_process() -> None:
    ask("lie", head={}, bytes_=1)
    link = next(
        int(fd)
        for fd in os.listdir(f"/proc/{SANDBOX.pid}/fd")
        if "socket" in os.readlink(f"/proc/{SANDBOX.pid}/fd/{fd}")
    )
    refused("OF883", "garbage", link=link)


class Escaped(Frozen):
    """What a decoder that was taken over was able to do."""

    done: tuple[str, ...]
    environment: tuple[str, ...]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the log says what is missing")
def test_a_decoder_that_was_taken_over_changes_no_file_and_reaches_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s")
    (tmp_path / "victim").write_text("whole")
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "port").write_text(str(server.getsockname()[1]))
        escaped = ask("escape", answer=Escaped, folder=str(tmp_path))[0]
    assert set(escaped.done) <= ({"fork"} if os.geteuid() == 0 else set())  # the limit of processes does not hold root
    assert "SECRET_TOKEN" not in escaped.environment
    assert (tmp_path / "victim").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["port", "victim"]


def test_the_process_ends_with_the_run_and_is_one_for_all_its_files(tmp_path: Path) -> None:
    png(tmp_path / "a.png", grey())
    with reading_run():
        read_image(tmp_path / "a.png")
        first = SANDBOX.pid
        with reading_run():
            read_image(tmp_path / "a.png")
        assert SANDBOX.pid == first is not None
    assert SANDBOX.pid is None


def test_it_is_replaced_after_many_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_QUESTIONS", 2)
    png(tmp_path / "a.png", grey())
    pids = []
    for _ in range(4):
        read_image(tmp_path / "a.png")
        pids.append(SANDBOX.pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep memory by rules of their own")
def test_memory_of_one_file_serves_the_next(tmp_path: Path) -> None:
    sizes = ((400, 500, 3), (300, 400, 3), (400, 500), (700, 500), (512, 512))  # 450 pages of memory together
    for k, size in enumerate(sizes):
        png(tmp_path / f"{k}.png", np.zeros(size, np.uint8))

    def faults_of_reading(times: int) -> int:
        def so_far() -> int:
            return int(Path(f"/proc/{SANDBOX.pid}/stat").read_text().rpartition(")")[2].split()[7])

        before = so_far() if SANDBOX.pid else 0
        for _ in range(times):
            for k in range(len(sizes)):
                read_image(tmp_path / f"{k}.png")
        return so_far() - before

    faults_of_reading(3)
    assert faults_of_reading(5) < 450


def test_threads_get_their_own_answers(tmp_path: Path) -> None:
    for k in range(4):
        png(tmp_path / f"{k}.png", np.full((8, 8), k, np.uint8))
    wrong: list[int] = []

    def read(k: int) -> None:
        for _ in range(20):
            if (read_image(tmp_path / f"{k}.png").slices[0].pixels != k).any():
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_process_has_one_of_its_own(tmp_path: Path) -> None:
    png(tmp_path / "a.png", grey())
    read_image(tmp_path / "a.png")
    mine = SANDBOX.pid
    child = os.fork()
    if child == 0:
        try:
            assert SANDBOX.pid is None
            read_image(tmp_path / "a.png")
            os._exit(0 if SANDBOX.pid != mine else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    read_image(tmp_path / "a.png")
    assert SANDBOX.pid == mine


def test_a_system_that_starts_no_process_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "a.png", grey())
    monkeypatch.setattr(process, "_START", "raise SystemExit(3)")
    with pytest.raises(OmniFedError, match="OF883"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(OmniFedError, match="OF883"):
        read_image(tmp_path / "a.png")


def test_a_file_that_kills_its_decoder_costs_a_site_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from made_files import config

    site = index(tmp_path / "site", *[f"i{k}.png,m{k}.png,p{k}" for k in range(5)], "series,,p5")
    for k in range(5):
        png(site / f"i{k}.png", grey(k))
        png(site / f"m{k}.png", disc())
    for k in range(3):
        dicom(site / "series" / f"{k}.dcm", np.full((40, 40), k), z=float(k), number=k)
    write_site_toml(config(), site / "site.toml")
    # A decoder of rasters that dies of one file, and one of DICOM that dies of one slice.
    dies = (
        "import os, omnifed.data.readers.raster_file as r, omnifed.data.readers.dicom_file as d; "
        "a, b = r.pages, d.decoded; "
        "r.pages = lambda path, **v: os.abort() if path.endswith('i2.png') else a(path, **v); "
        "d.decoded = lambda path, **v: os.abort() if path.endswith('1.dcm') else b(path, **v); "
    )
    start = "from omnifed.data.sandbox.child"
    monkeypatch.setattr(process, "_START", process._START.replace(start, dies + start))
    report = check_site(load_site(site))
    assert [(entry.name, entry.code) for entry in report.skipped] == [("i2.png", "OF880"), ("series#1.dcm", "OF880")]
    assert report.slices == 4 + 2
    data = prepare(load_site(site), tmp_path / "out")
    assert [entry.code for entry in data.skipped] == ["OF880", "OF880"]
    assert SANDBOX.pid is None


def test_nothing_that_decodes_is_loaded_where_questions_are_asked(tmp_path: Path) -> None:
    import subprocess

    png(tmp_path / "a.png", grey())
    dicom(tmp_path / "b.dcm", np.zeros((4, 4)))
    code = (
        "import sys, omnifed.predict.run; from pathlib import Path; "
        "from omnifed.data.readers.registry import read_image; "
        f"[read_image(Path({str(tmp_path)!r}) / n) for n in ('a.png', 'b.dcm')]; "
        "print({'pydicom', 'nibabel', 'highdicom'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "head",
    [b"[]", b"{}", b'{"arrays": 3}', b'{"arrays": [["|O", [1]]]}', b'{"arrays": [["|u1", [-1]]]}', b"\xff",
     b'{"arrays": [["|u1", [true]]]}', b'{"arrays": [["<f8", [1, 1, 1, 1, 1]]]}', b'{"arrays": [["|u1", [9]]]}',
     b'{"arrays": [["<V8", [1]]]}', b"[" * 100_000],
)  # fmt: skip
def test_heads_that_are_none(head: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(len(head).to_bytes(4, "big"))
        threading.Thread(target=there.sendall, args=(head,)).start()
        with pytest.raises(wire.Broken):
            wire.receive(here, room=8)


def test_many_and_large_arrays_pass_with_a_file(tmp_path: Path) -> None:
    arrays = [np.full((k, 3), k, np.float32) for k in range(3 * wire._MAX_PARTS)] + [np.arange(2**18)]
    here, there = socket.socketpair()
    with here, there, (tmp_path / "f").open("w") as file:
        sending = threading.Thread(target=wire.send, args=(there, {}, arrays, file.fileno()))
        sending.start()
        _, got, fd = wire.receive(here, room=2**22, takes_fd=True)
        sending.join()
        assert fd is not None
        assert os.fstat(fd).st_ino == (tmp_path / "f").stat().st_ino
        wire.close_fd(fd)
    assert len(got) == len(arrays)
    assert all(np.array_equal(a, b) for a, b in zip(got, arrays, strict=True))


def test_one_who_takes_a_question_byte_by_byte_gains_no_time() -> None:
    here, there = socket.socketpair()
    with here, there:

        def nibble() -> None:
            with suppress(OSError):
                while there.recv(2**17):
                    time.sleep(0.05)

        threading.Thread(target=nibble, daemon=True).start()
        with pytest.raises(TimeoutError):
            wire.send(here, {}, [np.zeros(2**26, np.uint8)], deadline=time.monotonic() + 0.5)


def test_arrays_pass_as_they_are() -> None:
    arrays = [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.zeros((0, 4), np.float64),
        np.arange(4, dtype=">u2")[::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ]
    here, there = socket.socketpair()
    with here, there:
        wire.send(there, {"a": 1}, arrays)
        head, got, fd = wire.receive(here, room=1000)
    assert (head, fd) == ({"a": 1}, None)
    for sent, received in zip(arrays, got, strict=True):
        np.testing.assert_array_equal(sent, received)
        assert received.dtype.isnative
