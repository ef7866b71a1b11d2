"""Writes a patient's slices as hospitals hold them: JPEG, PNG, NIfTI volumes, DICOM (which has its own module).

Nothing here depends on the clock or on a random state: equal pixels give equal bytes.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from omnifed_sim.phantoms.base import Phantom, Slices
from omnifed_sim.phantoms.dicom import write_series

_BRAIN_MM, _SLICE_MM = 230.0, 5.0
"""Width of the image and distance of the slices of a NIfTI volume."""


def write_case(phantom: Phantom, patient: str, slices: Slices, folder: Path) -> list[tuple[str, str]]:
    """Writes one patient.

    Args:
        phantom: says the native format.
        patient: key in the index, also the stem of the files.
        slices: (image, mask or None) in order of position.
        folder: the site; ``images`` and ``masks`` are made below it.

    Returns:
        Index entries (image, mask), relative to ``folder``; an empty mask where there is none.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    if phantom.native == "nifti":
        return [_nifti(patient, slices, folder)]
    if phantom.native == "dicom":
        return write_series(phantom, patient, slices, folder)
    entries = []
    for number, (image, mask) in enumerate(slices):
        suffix = "jpg" if phantom.native == "jpeg" else "png"
        name = f"images/{patient}_{number}.{suffix}"
        picture = Image.fromarray(np.rint(np.clip(image, 0, 255)).astype(np.uint8))
        picture.save(folder / name, quality=92)  # PNG takes no notice of it
        label = "" if mask is None else f"masks/{patient}_{number}.png"
        if mask is not None:
            Image.fromarray(mask).save(folder / label)
        entries.append((name, label))
    return entries


def _nifti(patient: str, slices: Slices, folder: Path) -> tuple[str, str]:
    def save(planes: list[np.ndarray], name: str) -> str:
        # display rows run from anterior to posterior, columns from right to left; RAS+ axes run the other way
        volume = np.stack([plane.T[::-1, ::-1] for plane in planes], axis=-1)
        pixel = _BRAIN_MM / volume.shape[0]
        image = nib.nifti1.Nifti1Image(volume, np.diag([pixel, pixel, _SLICE_MM, 1.0]))
        image.header.set_xyzt_units("mm")
        (folder / name).write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
        return name

    picture = save([np.rint(image).astype(np.int16) for image, _ in slices], f"images/{patient}.nii.gz")
    masks = [mask for _, mask in slices if mask is not None]
    return picture, save(masks, f"masks/{patient}.nii.gz") if masks else ""
