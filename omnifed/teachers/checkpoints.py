"""Checkpoints that a hospital brings: hash checked, read without running code, imported once to safetensors."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omnifed.errors import OmniFedError
from omnifed.states import read_state, write_state
from omnifed.teachers.spec import TeacherSpec


@dataclass(frozen=True)
class Published:
    """A checkpoint as Meta publishes it: file name and sha256."""

    name: str
    sha256: str


PUBLISHED: dict[str, Published] = {
    "vit_b": Published("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": Published("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": Published("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}
"""The three files of github.com/facebookresearch/segment-anything."""

DEFAULT_FOLDER = Path.home() / ".omnifed" / "checkpoints"
"""Where checkpoints are looked for when the configuration names no path."""


def sam_state(spec: TeacherSpec, folder: Path | None = None) -> dict[str, Tensor]:
    """Weights of a SAM checkpoint.

    The first use checks the hash of the .pth, reads it with ``weights_only`` (no code of the file runs) and writes
    ``<name>.<first 16 digits of the hash>.safetensors`` beside it; later uses read that and need the .pth no more.

    Args:
        spec: variant, path and expected hash; an empty path means Meta's file name in ``folder``, an empty hash Meta's.
        folder: where to look; None takes :data:`DEFAULT_FOLDER`.

    Returns:
        float32 tensors by Meta's names.

    Raises:
        OmniFedError: OF320 if the file is absent, OF321 if its hash is another, OF322 if it is not plain weights.
    """
    published = PUBLISHED[spec.variant]
    path = Path(spec.checkpoint) if spec.checkpoint else (folder or DEFAULT_FOLDER) / published.name
    expected = (spec.sha256 or published.sha256).lower()
    imported = path.with_name(f"{path.name}.{expected[:16]}.safetensors")
    if imported.is_file():
        try:
            state, meta = read_state(imported)
            if meta.get("source_sha256") == expected:
                return {key: torch.from_numpy(value) for key, value in state.items()}
        except OmniFedError:
            pass  # a damaged import is made again from the checkpoint
    require_file(path, expected)
    weights = _plain_weights(path, expected)
    with suppress(OmniFedError):  # a read-only folder or a full disk: the checkpoint itself serves
        write_state(imported, {k: v.numpy() for k, v in weights.items()}, {"source_sha256": expected}, mode=0o644)
    return weights


def require_file(path: Path, sha256: str) -> None:
    """Checks that ``path`` is there; ``sha256`` is told to who must bring it.

    Raises:
        OmniFedError: OF320.
    """
    if not path.is_file():
        raise OmniFedError(
            "OF320",
            "The teacher's checkpoint must lie at the site; it is never downloaded.",
            seen=str(path),
            remedy=f"Put the file there (sha256 {sha256 or 'of your choice'}), or use the embedded teacher sam-tiny.",
        )


def require_hash(path: Path, found: str, expected: str) -> None:
    """Compares the sha256 (hex) of what was read from ``path`` with the expected one; "" expects nothing.

    Raises:
        OmniFedError: OF321.
    """
    if expected and found != expected:
        raise OmniFedError(
            "OF321",
            "The checkpoint's sha256 must be the expected one.",
            seen=f"{path}: {found}, expected {expected}",
            remedy="Copy the file again from its publisher; for another file, state its sha256.",
        )


def _plain_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads a .pth with this hash that holds tensors by name and nothing else."""
    with path.open("rb") as file:  # opened once: what was hashed is what is read
        require_hash(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # also UnpicklingError, whose module nothing here should import
            raise _not_weights(path, (str(error).splitlines() or [type(error).__name__])[0][:120]) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _not_weights(path, "not a mapping of names to tensors")
    return {str(key): value.detach().float().contiguous() for key, value in state.items()}


def _not_weights(path: Path, why: str) -> OmniFedError:
    return OmniFedError(
        "OF322",
        "A checkpoint must be plain weights; a pickle that would run code is refused.",
        seen=f"{path}: {why}",
        remedy="Use the publisher's original file. Never load this one with weights_only=False.",
    )


def as_float16(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Halves a state's size for shipping: float tensors as float16, others as they are."""
    return {key: (value.half() if value.is_floating_point() else value).cpu().numpy() for key, value in state.items()}
