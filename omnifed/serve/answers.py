"""What the page is told of a job: no path of this machine is part of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.serve.child import parse_error
from omnifed.serve.jobs import Job


def results(job: Job) -> list[dict[str, Any]]:
    """The predictions of a job as the page needs them, without any path.

    Returns:
        For each: ``file`` (number of the upload, None for a series), ``suffix`` of the output, ``kind``, ``slices``,
        ``labels``, ``warnings``, ``seconds``, ``overlays`` (how many).
    """
    found = []
    for one in (job.report or {}).get("predictions", []):
        source, output = Path(one["source"]), Path(one["outputs"][0])
        number = source.name.partition(".")[0]
        found.append(
            {key: one[key] for key in ("kind", "slices", "labels", "seconds", "warnings")}
            | {
                "file": int(number) if re.fullmatch(r"\d{5}", number) else None,
                "suffix": output.name.removeprefix(number) if number else output.suffix,
                "overlays": len(overlays(job, one)),
            }
        )
    return found


def overlays(job: Job, prediction: dict[str, Any]) -> list[Path]:
    """Pictures of a prediction in the order of its slices, none outside of the job's folder."""
    files: list[Path] = []
    for name in prediction["overlays"]:
        path = Path(name)
        files += sorted(path.glob("*.png")) if path.is_dir() else [path]
    return [file for file in files if file.is_relative_to(job.folder)]


def failures(job: Job) -> list[dict[str, Any]]:
    """Errors of a job as the page shows them: paths of this machine are left out."""
    errors = [job.error] if job.error else []
    for one in (job.report or {}).get("failed", []):
        errors.append(parse_error(one["reason"]) or OmniFedError(one["code"], one["reason"]))
    shown = []
    for error in errors:
        seen = error.seen.replace(f"{job.folder / 'in'}/", "file ").replace(str(job.folder / "in"), "the upload")
        shown.append({"code": error.code, "rule": error.rule, "seen": seen, "remedy": error.remedy})
    return shown
