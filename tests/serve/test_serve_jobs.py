"""Jobs, the child process and the guard, without a server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from omnifed.errors import OmniFedError
from omnifed.serve import child
from omnifed.serve import jobs as module
from omnifed.serve.answers import failures, results
from omnifed.serve.guard import Guard
from omnifed.serve.jobs import Job, Jobs
from omnifed.serve.run import serve
from omnifed.serve.settings import ServeConfig


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def nothing(source: Path, target: Path) -> Any:
    return {"predictions": [], "failed": []}


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_one_prediction_at_a_time_in_the_order_of_starting(tmp_path: Path) -> None:
    log: list[str] = []

    async def slow(source: Path, target: Path) -> Any:
        log.append("begin")
        await asyncio.sleep(0.01)
        log.append("end")
        return {"predictions": [], "failed": []}

    async def test() -> None:
        room = Jobs(tmp_path, slow, 100)
        made = [room.open(1, 1) for _ in range(3)]
        for job in made:
            await room.receive(job, 0, ".png", chunks(b"x"))
            room.start(job)
        await asyncio.sleep(0)
        assert [job.state for job in made] == ["running", "waiting", "waiting"]
        assert room.busy
        await asyncio.gather(*(job.task for job in made if job.task))
        assert log == ["begin", "end"] * 3
        assert [job.state for job in made] == ["done"] * 3
        with pytest.raises(OmniFedError, match="OF658"):
            room.start(made[0])

    run(test)


def test_the_limit_holds_for_all_files_together(tmp_path: Path) -> None:
    async def test() -> None:
        room = Jobs(tmp_path, nothing, 10)
        job = room.open(2, 10)
        await room.receive(job, 0, "", chunks(b"12345", b"67"))
        with pytest.raises(OmniFedError, match="OF653"):
            await room.receive(job, 1, "", chunks(b"890", b"1"))
        assert [path.read_bytes() for path in (job.folder / "in").iterdir()] == [b"1234567"]

    run(test)


def test_a_job_that_nobody_asks_for_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_S", 0.3)

    async def test() -> None:
        room = Jobs(tmp_path, nothing, 10)
        old, used = room.open(1, 1), room.open(1, 1)
        sweeper = asyncio.create_task(room.sweep())
        for _ in range(60):
            room.get(used.id)
            await asyncio.sleep(0.01)
        sweeper.cancel()
        assert list(tmp_path.iterdir()) == [used.folder]
        with pytest.raises(OmniFedError, match="OF658"):
            room.get(old.id)

    run(test)


def test_a_deleted_job_takes_its_process_along(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    async def slow(source: Path, target: Path) -> Any:
        return await child.predict(Path("m"), source, target, 60, python(code))

    async def test() -> None:
        room = Jobs(tmp_path / "room", slow, 10)
        job = room.open(1, 1)
        await room.receive(job, 0, "", chunks(b"x"))
        room.start(job)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        await room.remove(job)
        assert list((tmp_path / "room").iterdir()) == []
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    run(test)


@pytest.mark.parametrize(
    ("code", "number", "seen"),
    [
        ("import os; os.kill(os.getpid(), 9)", "OF657", "exit code -9"),
        ("import sys; sys.exit('Traceback of something')", "OF657", "exit code 1: Traceback of something"),
        ("print('no json')", "OF657", "exit code 0"),
        (
            "import sys; sys.exit('OF602: The rule.\\n  Seen: x\\n  y\\n  Remedy: Do.\\n  More: docs')",
            "OF602",
            "x\n  y",
        ),
        ("import time; time.sleep(60)", "OF656", "killed after 1 s"),
        (
            "import resource, time\nwhile resource.getrlimit(resource.RLIMIT_DATA)[0] < 0: time.sleep(0.01)\n"
            "bytes(6 * 2**30)",
            "OF657",
            "exit code 1: Traceback",
        ),
    ],
)
def test_however_the_process_ends_there_is_an_answer(code: str, number: str, seen: str) -> None:
    begin = time.monotonic()
    with pytest.raises(OmniFedError) as caught:
        asyncio.run(child.predict(Path("m"), Path("s"), Path("t"), 1 if number == "OF656" else 60, python(code)))
    assert (caught.value.code, caught.value.seen.startswith(seen)) == (number, True), caught.value.seen
    assert time.monotonic() - begin < 30


def test_a_process_that_does_not_start_is_an_answer_too(tmp_path: Path) -> None:
    async def none(source: Path, target: Path) -> Any:
        return await child.predict(Path("m"), source, target, 60, (str(tmp_path / "no program"),))

    async def test() -> None:
        room = Jobs(tmp_path / "room", none, 10)
        job = room.open(1, 1)
        room.start(job)
        assert job.task is not None
        await job.task
        assert (job.state, job.error and job.error.code, room.busy) == ("failed", "OF657", False)

    run(test)


def test_an_error_is_read_as_it_was_printed() -> None:
    error = OmniFedError("OF201", "A rule: with a colon.", seen="a\nb", remedy="Do this.")
    again = child.parse_error(str(error) + "\n")
    assert again is not None
    assert (again.code, again.rule, again.seen, again.remedy) == (error.code, error.rule, error.seen, error.remedy)
    bare = child.parse_error(str(OmniFedError("OF201", "A rule.")))
    assert bare is not None
    assert (bare.rule, bare.seen, bare.remedy) == ("A rule.", "", "")
    assert child.parse_error("Traceback (most recent call last):") is None


def test_results_and_failures_hold_no_path(tmp_path: Path) -> None:
    job = Job("x", tmp_path / "j")
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"")
    base = {"kind": "dicom", "slices": 2, "labels": {}, "warnings": [], "seconds": 1.0}
    job.report = {
        "predictions": [
            {**base, "source": f"{job.folder}/in", "outputs": [f"{job.folder}/out/in_seg.dcm"], "overlays": []},
            {
                **base,
                "source": f"{job.folder}/in/00007.nii.gz",
                "outputs": [f"{job.folder}/out/00007_seg.nii.gz"],
                "overlays": [str(outside)],
            },
        ],
        "failed": [
            {
                "source": "s",
                "code": "OF212",
                "reason": str(OmniFedError("OF212", "R.", seen=f"{job.folder}/in/00001: w")),
            }
        ],
    }
    assert [(one["file"], one["suffix"], one["overlays"]) for one in results(job)] == [
        (None, "_seg.dcm", 0), (7, "_seg.nii.gz", 0),
    ]  # fmt: skip
    assert failures(job) == [{"code": "OF212", "rule": "R.", "seen": "file 00001: w", "remedy": ""}]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("not asked")


@pytest.mark.parametrize(
    ("host", "here", "remote"),
    [
        ("127.0.0.1:8640", True, True),
        ("LOCALHOST", True, True),
        ("[::1]:8640", True, True),
        ("192.168.1.5:8640", False, True),
        ("station.example:8640", False, True),
        ("evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("127.0.0.1@evil.example", False, False),
        ("[::1", False, False),
        ("", False, False),
    ],
)
def test_a_host_is_this_machine(host: str, here: bool, remote: bool) -> None:
    headers = Headers({"host": host})
    assert (Guard(_app, "127.0.0.1", False).fault("GET", headers) == "") is here
    assert (Guard(_app, "Station.example", True).fault("GET", headers) == "") is remote


def test_without_the_extra_the_remedy_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(OmniFedError, match="OF650") as caught:
        serve(ServeConfig(model=model), ready=lambda address: None)
    assert "omnifed[serve]" in caught.value.remedy


def test_the_page_needs_no_torch_and_the_other_commands_need_no_page() -> None:
    def loaded(code: str, heavy: str) -> str:
        code = f"import sys; {code}; print({heavy} & set(sys.modules))"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert loaded("import omnifed.serve.app, omnifed.serve.run", "{'torch', 'onnx', 'scipy', 'matplotlib'}") == "set()"
    assert loaded("import omnifed.cli.app", "{'starlette', 'uvicorn', 'highdicom', 'torch'}") == "set()"
