"""A campaign's curves in TensorBoard or MLflow, as an option; written from the same events as all else. No torch."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from omnifed.errors import OmniFedError
from omnifed.serving import missing
from omnifed.tail import plain, time_of
from omnifed_server.board_site import number

Scalar = tuple[str, float, int]


class Tracker(Protocol):
    """Where curves go. A tracker that is opened again begins anew: give it the event log from its start.

    Attributes:
        problem: why tracking has been switched off, empty while it works.
    """

    problem: str

    def add(self, event: dict[str, Any]) -> None:
        """Writes the figures of one event; never raises, since a campaign matters more than its curves."""

    def close(self) -> None:
        """Writes what is still held back."""


def open_tracker(kind: str, folder: Path) -> Tracker:
    """Opens the tracker of a campaign.

    Args:
        kind: "tensorboard", "mlflow", or "" for one that does nothing.
        folder: for its files, of this run alone; made if it is not there.

    Raises:
        OmniFedError: OF541 if its package is not installed, OF542 if ``kind`` is unknown, OF543 if ``folder`` cannot
            be written.
    """
    kinds: dict[str, type[_Guarded]] = {"": _Nothing, "tensorboard": _TensorBoard, "mlflow": _MLflow}
    if kind not in kinds:
        raise OmniFedError(
            "OF542",
            "Tracking is one of tensorboard, mlflow, or empty.",
            seen=kind,
            remedy='Set tracking = "tensorboard", "mlflow" or "".',
        )
    try:
        return kinds[kind](folder)
    except OSError as error:
        raise OmniFedError(
            "OF543",
            "The folder of the tracker's files must be writable.",
            seen=f"{folder}: {error.strerror or error}",
            remedy='Permit writing there or free disk space, or set tracking = "".',
        ) from None


def scalars(event: dict[str, Any]) -> Iterator[Scalar]:
    """The figures of an event as (name, value, step); the step is the 0-based round.

    Names: ``dice/ARM/SITE``, ``loss_TERM/ARM/SITE``, ``seconds/ARM/SITE``; ``bytes_up/ARM``, ``bytes_down/ARM``,
    ``round_seconds/ARM``, ``misses/ARM``; of private rounds ``mean_dice/ARM`` and ``mean_loss_TERM/ARM`` instead of the
    sites' own; ``dice/teacher/SITE``; ``evaluated_dice/ARM/SITE/WHICH/SPLIT``.
    """
    step = int(number(event.get("round")) or 0)
    for name, value in _values(event):
        found = number(value)
        if found is not None:
            yield re.sub(r"[^\w./-]", "_", name), found, step


def _values(event: dict[str, Any]) -> Iterator[tuple[str, object]]:
    arm, site = plain(event.get("arm"), 40), plain(event.get("site"), 64)
    match event.get("event"):
        case "round":
            yield f"dice/{arm}/{site}", event.get("dice")
            yield f"seconds/{arm}/{site}", event.get("seconds")
            yield from _losses("loss", f"{arm}/{site}", event)
        case "aggregate":
            yield f"round_seconds/{arm}", event.get("seconds")
            for key in ("bytes_up", "bytes_down", "misses"):
                yield f"{key}/{arm}", event.get(key)
            yield f"mean_dice/{arm}", event.get("dice")
            yield from _losses("mean_loss", arm, event)
        case "teach":
            yield f"dice/teacher/{site}", event.get("dice")
        case "evaluate":
            which, split = plain(event.get("which"), 40), plain(event.get("split"), 40)
            yield f"evaluated_dice/{arm}/{site}/{which}/{split}", event.get("dice")


def _losses(name: str, whose: str, event: dict[str, Any]) -> Iterator[tuple[str, object]]:
    loss = event.get("loss")
    for term, value in (loss if isinstance(loss, dict) else {}).items():
        yield f"{name}_{plain(term, 40)}/{whose}", value


class _Guarded:
    """A tracker whose failures end tracking, not the campaign."""

    def __init__(self, folder: Path) -> None:
        self.problem = ""

    def add(self, event: dict[str, Any]) -> None:
        if self.problem:
            return
        time = time_of(event)
        try:
            for name, value, step in scalars(event):
                self._write(name, value, step, time.timestamp() if time else None)
        except Exception as error:
            self._off(error)

    def close(self) -> None:
        try:
            self._close()
        except Exception as error:
            self._off(error)

    def _off(self, error: Exception) -> None:
        self.problem = plain(f"tracking is switched off: {type(error).__name__}: {error}")
        logging.getLogger(__name__).warning(self.problem)

    def _write(self, name: str, value: float, step: int, time: float | None) -> None:
        pass

    def _close(self) -> None:
        pass


class _Nothing(_Guarded):
    pass


class _TensorBoard(_Guarded):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with _without_torch():
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                raise missing("tensorboardX", "tensorboardX") from None
        # purge_step: TensorBoard forgets what was written before this file, so a resumed campaign shows no point twice
        self._writer = SummaryWriter(str(folder), purge_step=0, flush_secs=10)

    def _write(self, name: str, value: float, step: int, time: float | None) -> None:
        self._writer.add_scalar(name, value, step, walltime=time)

    def _close(self) -> None:
        self._writer.close()


class _MLflow(_Guarded):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # MLflow 3 asks for a database unless told so; a run's own folder of files can be copied and read without one.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise missing("mlflow", "mlflow-skinny") from None
        folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=folder.absolute().as_uri())
        known = self._client.get_experiment_by_name("omnifed")
        experiment = known.experiment_id if known else self._client.create_experiment("omnifed")
        for earlier in self._client.search_runs([experiment]):
            self._client.delete_run(earlier.info.run_id)
        self._run = self._client.create_run(experiment, run_name=folder.absolute().parent.name).info.run_id

    def _write(self, name: str, value: float, step: int, time: float | None) -> None:
        self._client.log_metric(self._run, name, value, timestamp=int(time * 1000) if time else None, step=step)

    def _close(self) -> None:
        self._client.set_terminated(self._run)


@contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports torch where it can, for tensors that it never gets here: 2 s and 190 MiB for nothing."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
