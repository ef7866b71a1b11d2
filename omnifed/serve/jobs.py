"""Jobs: uploads and results, each in a private folder that is deleted as soon as nobody needs it."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omnifed.errors import OmniFedError
from omnifed.files import not_written
from omnifed.serve.child import unanswered
from omnifed.serve.settings import MAX_FILES

MAX_JOBS = 8
"""Jobs at one time, each with up to the upload limit on disk."""
KEEP_S = 900.0
"""Seconds without a request after which a job is deleted: its tab was closed or the machine slept."""
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".nii", ".nii.gz")
"""All of a file's name that is kept: names may name patients, and are never paths here."""

Run = Callable[[Path, Path], Awaitable[Any]]
"""``run(source, target)`` gives the report of `omnifed predict`."""


@dataclass
class Job:
    """One upload and its prediction.

    Attributes:
        id: 128 random bits; who does not know it cannot see the job.
        folder: private folder with ``in`` and ``out``.
        state: where it stands.
        report: what `omnifed predict` said, when done.
        error: why it failed.
    """

    id: str
    folder: Path
    state: Literal["open", "waiting", "running", "done", "failed"] = "open"
    size: int = 0
    numbers: set[int] = field(default_factory=set)
    touched: float = field(default_factory=time.monotonic)
    started: float = 0.0
    report: Any = None
    error: OmniFedError | None = None
    task: asyncio.Task[None] | None = None


class Jobs:
    """All jobs.

    Args:
        folder: private folder for them.
        run: makes one prediction; never called twice at a time.
        max_bytes: largest upload of one job.
    """

    def __init__(self, folder: Path, run: Run, max_bytes: int) -> None:
        self.folder, self.run, self.max_bytes = folder, run, max_bytes
        self._jobs: dict[str, Job] = {}
        self._turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether a prediction runs."""
        return self._turn.locked()

    def open(self, files: int, size: int) -> Job:
        """Makes a job for an announced upload.

        Raises:
            OmniFedError: OF653 too large, OF654 too many files, OF659 too many jobs.
        """
        self.check(files, size)
        if len(self._jobs) >= MAX_JOBS:
            raise OmniFedError(
                "OF659",
                f"At most {MAX_JOBS} jobs are kept at one time.",
                remedy="Wait until others are done, or close their pages.",
            )
        job = Job(secrets.token_urlsafe(16), self.folder / secrets.token_hex(8))
        (job.folder / "in").mkdir(parents=True, mode=0o700)
        self._jobs[job.id] = job
        return job

    def check(self, files: int, size: int) -> None:
        """Refuses what is beyond the limits (OF653, OF654)."""
        if size > self.max_bytes:
            raise OmniFedError(
                "OF653",
                "The files of one upload must stay below the size limit.",
                seen=f"more than {self.max_bytes / 1e6:g} MB",
                remedy="Send fewer slices, or start omnifed serve with a larger --max-mb, or use omnifed predict.",
            )
        if files > MAX_FILES:
            raise OmniFedError(
                "OF654",
                f"One upload has at most {MAX_FILES} files.",
                seen=f"{files} files",
                remedy="Send one series at a time, or use omnifed predict for folders.",
            )

    def get(self, job_id: str) -> Job:
        """Finds a job.

        Raises:
            OmniFedError: OF658 there is none.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise gone("no such job")
        job.touched = time.monotonic()
        return job

    async def receive(self, job: Job, number: int, suffix: str, chunks: AsyncIterator[bytes]) -> None:
        """Writes one file of an upload to disk as it arrives.

        Args:
            job: an open job.
            number: of the file, 0 and up; the same number replaces nothing.
            suffix: end of its name; one that is not known is left out.
            chunks: its bytes.

        Raises:
            OmniFedError: OF103 the disk is full, OF653 the job is beyond the limit: what came of the file is deleted,
                OF654 too many files, OF658 the job is not open any more.
        """
        if job.state != "open" or number in job.numbers:
            raise gone("the upload is complete")
        job.numbers.add(number)
        self.check(len(job.numbers), job.size)
        path = job.folder / "in" / f"{number:05}{suffix if suffix in SUFFIXES else ''}"
        try:
            with path.open("xb") as file:
                async for chunk in chunks:
                    job.size += len(chunk)
                    job.touched = time.monotonic()
                    self.check(1, job.size)
                    file.write(chunk)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise not_written(Path("the upload"), error) from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def start(self, job: Job) -> None:
        """Lets a job wait for its turn and run."""
        if job.state != "open":
            raise gone("the job was started")
        job.state = "waiting"
        job.task = asyncio.create_task(self._do(job))

    async def _do(self, job: Job) -> None:
        source, target = job.folder / "in", job.folder / "out"
        files = sorted(source.iterdir())
        try:
            async with self._turn:
                job.state, job.started = "running", time.monotonic()
                job.report = await self.run(files[0] if len(files) == 1 else source, target)
            job.state = "done"
        except OmniFedError as error:
            job.error, job.state = error, "failed"
        except Exception as error:  # no process, no disk: whatever it is, the page must not wait for ever
            job.error, job.state = unanswered(f"{type(error).__name__}: {error}"), "failed"
        finally:
            shutil.rmtree(source, ignore_errors=True)

    async def remove(self, job: Job) -> None:
        """Ends a job and deletes all of it."""
        self._jobs.pop(job.id, None)
        if job.task is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        shutil.rmtree(job.folder, ignore_errors=True)

    async def sweep(self) -> None:
        """Deletes jobs that nobody asks for, for ever."""
        while True:
            await asyncio.sleep(KEEP_S / 30)
            late = time.monotonic() - KEEP_S
            for job in [job for job in self._jobs.values() if job.touched < late]:
                await self.remove(job)

    async def close(self) -> None:
        """Ends and deletes all jobs."""
        for job in list(self._jobs.values()):
            await self.remove(job)


def gone(seen: str) -> OmniFedError:
    """OF658 with what was asked for."""
    return OmniFedError(
        "OF658",
        "A job must exist: it is deleted once its results are fetched, after a quarter of an hour, or at the end.",
        seen=seen,
        remedy="Send the images again.",
    )
