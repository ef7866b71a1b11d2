"""Small files of every format, made by hand, and folders of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from omnifed.data.site import Normalisation, SiteConfig, Splits

SERIES = generate_uid(entropy_srcs=["series"])


def config(**changes: object) -> SiteConfig:
    values = {
        "name": "made",
        "modality": "other",
        "labels": {0: "background", 1: "disc"},
        "image_size": (32, 32),
        "normalisation": Normalisation(kind="minmax"),
        **changes,
    }
    return SiteConfig.model_validate(values)


def index(folder: Path, *rows: str, header: str = "image,mask,patient") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def disc(side: int = 32, value: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 4) ** 2) * value).astype(np.uint8)


def grey(seed: int = 0, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def png(path: Path, pixels: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path.name


def nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path.name


def slice_file(pixels: np.ndarray, z: float = 0.0, number: int = 1, **tags: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["slice", str(number), str(z)])
    data.SeriesInstanceUID = SERIES
    data.Modality = "CT"
    data.InstanceNumber = number
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelSpacing = [0.5, 0.25]
    data.ImagePositionPatient, data.ImageOrientationPatient = [10, 20, z], [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept = 2, -1000
    data.PixelData = pixels.astype("<i2").tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    return data


def dicom(path: Path, pixels: np.ndarray, z: float = 0.0, number: int = 1, **tags: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, slice_file(pixels, z, number, **tags), enforce_file_format=False)
    return path.name


def png_site(folder: Path, n: int = 6, **changes: object) -> Path:
    """n grey images with a disc each, one patient an image, and a site.toml."""
    from omnifed.data.propose import write_site_toml

    for k in range(n):
        png(folder / f"i{k}.png", grey(k))
        png(folder / f"m{k}.png", disc())
    index(folder, *[f"i{k}.png,m{k}.png,p{k}" for k in range(n)])
    write_site_toml(config(**{"splits": Splits(), **changes}), folder / "site.toml")
    return folder
