"""Small valid files of every kind and transfer syntax that readers take: what mutations start from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

PLANTED = "ZZPLANTED"
"""Part of each text of a patient in these files: it must be in no error."""
STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=["hostile", name]) for name in ("study", "series", "frame"))
SIDE = 24


@dataclass(frozen=True)
class Valid:
    """A valid file: its name, suffix, bytes, and whether it is read as an image or as a mask of the CT."""

    name: str
    suffix: str
    data: bytes
    mask: bool = False


def pixels(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    return np.random.default_rng([5, seed]).integers(0, 200, shape)


def item(**tags: Any) -> pydicom.Dataset:
    data = pydicom.Dataset()
    for tag, value in tags.items():
        setattr(data, tag, value)
    return data


def ct(array: np.ndarray, *, sop: str = CTImageStorage, **tags: Any) -> FileDataset:
    """A CT file of (H, W) or (frames, H, W) with a patient, geometry and private elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop, ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = sop
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["hostile", "instance"])
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.PatientID, data.PatientName, data.PatientBirthDate = f"{PLANTED}-7", f"{PLANTED}^Ann", "19700102"
    data.InstitutionName, data.AccessionNumber, data.StudyDescription = f"{PLANTED} clinic", "A1", f"{PLANTED} liver"
    data.Modality, data.InstanceNumber = "CT", 1
    data.Rows, data.Columns = array.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelSpacing, data.SliceThickness = [0.5, 0.5], 2
    data.ImagePositionPatient, data.ImageOrientationPatient = [10, 20, 30], [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept = 2, -1000
    data.WindowCenter, data.WindowWidth = 40, 400
    block = data.private_block(0x0011, f"{PLANTED} Corp", create=True)
    block.add_new(1, "LO", PLANTED)
    block.add_new(2, "SQ", [item(PatientComments=PLANTED)])
    if array.ndim == 3:
        data.NumberOfFrames = len(array)
    data.PixelData = array.astype("<u2").tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    return data


def eight_bit(array: np.ndarray, **tags: Any) -> FileDataset:
    data = ct(array, BitsAllocated=8, BitsStored=8, HighBit=7, **tags)
    data["PixelData"].VR = "OB"
    data.PixelData = array.astype(np.uint8).tobytes()
    return data


def saved(data: FileDataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    return file.getvalue()


def encoded(data: FileDataset, syntax: str, frames: list[bytes]) -> bytes:
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = syntax
    return saved(data)


def picture(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def compressed(data: FileDataset, syntax: str) -> bytes:
    data.compress(syntax)
    return saved(data)


def of_syntax(data: FileDataset, syntax: str) -> bytes:
    data.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    if not little:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, little_endian=little, implicit_vr=implicit, force_encoding=True)
    return file.getvalue()


def enhanced() -> bytes:
    array = pixels((3, SIDE, SIDE))
    data = ct(array, sop=EnhancedCTImageStorage)
    del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    data.SharedFunctionalGroupsSequence = [shared]
    places = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in (2, 0, 4)]
    data.PerFrameFunctionalGroupsSequence = places
    return saved(data)


def palette() -> bytes:
    data = eight_bit(pixels((SIDE, SIDE)), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype="<u2").tobytes())
    return saved(data)


def lookup() -> bytes:
    data = ct(pixels((SIDE, SIDE)) % 64)
    table = item(LUTDescriptor=[64, 0, 16], LUTData=np.arange(64, dtype="<u2").tobytes())
    table["LUTData"].VR = "OW"
    data.VOILUTSequence = [table]
    return saved(data)


def colour() -> bytes:
    data = eight_bit(pixels((SIDE, SIDE)), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    data.PixelData = pixels((SIDE, SIDE, 3)).astype(np.uint8).tobytes()
    return saved(data)


def segmentation() -> bytes:
    from omnifed.predict.seg import SegModel, seg_bytes

    masks = (pixels((1, SIDE, SIDE)) % 3).astype(np.uint8)
    labels = {0: "background", 1: "liver", 2: "tumour"}
    return seg_bytes([ct(pixels((SIDE, SIDE)))], masks, labels=labels, model=SegModel(version="1", sha256="ab" * 32))


def dicom_files() -> Iterator[Valid]:
    """All kinds of DICOM."""
    flat, deep = pixels((SIDE, SIDE)), pixels((4, SIDE, SIDE))
    byte = flat.astype(np.uint8)
    yield Valid("explicit", ".dcm", saved(ct(flat)))
    yield Valid("implicit", ".dcm", of_syntax(ct(flat), ImplicitVRLittleEndian))
    yield Valid("big endian", ".dcm", of_syntax(ct(flat), ExplicitVRBigEndian))
    yield Valid("deflated", ".dcm", of_syntax(ct(flat), DeflatedExplicitVRLittleEndian))
    yield Valid("multi-frame", ".dcm", saved(ct(deep)))
    yield Valid("enhanced", ".dcm", enhanced())
    yield Valid("RLE", ".dcm", compressed(ct(flat), RLELossless))
    yield Valid("RLE multi-frame", ".dcm", compressed(ct(deep), RLELossless))
    yield Valid("JPEG", ".dcm", encoded(eight_bit(flat), JPEGBaseline8Bit, [picture(byte, "JPEG")]))
    wavelet = picture(byte, "JPEG2000", no_jp2=True)
    yield Valid("JPEG 2000", ".dcm", encoded(eight_bit(flat), JPEG2000Lossless, [wavelet]))
    yield Valid("JPEG-LS", ".dcm", compressed(ct(flat), JPEGLSLossless))
    yield Valid("palette", ".dcm", palette())
    yield Valid("lookup table", ".dcm", lookup())
    yield Valid("colour", ".dcm", colour())
    yield Valid("SEG", ".dcm", segmentation(), mask=True)


def other_files() -> Iterator[Valid]:
    """All kinds of NIfTI and of pictures."""
    volume = nib.Nifti1Image(pixels((6, 7, 5)).astype(np.int16), np.diag([2.0, 2, 3, 1]))
    volume.header["descrip"] = PLANTED.encode()
    labels = nib.Nifti1Image((pixels((SIDE, SIDE, 1)) % 3).astype(np.float64), np.diag([-0.5, -0.5, 2, 1]))
    labels.affine[:3, 3] = [-10, -20, 30]
    for name, image in (("NIfTI", volume), ("NIfTI mask", labels)):
        plain = image.to_bytes()
        yield Valid(name, ".nii", plain, mask=image is labels)
        yield Valid(f"{name} packed", ".nii.gz", _packed(plain), mask=image is labels)
    byte = pixels((SIDE, SIDE)).astype(np.uint8)
    yield Valid("PNG", ".png", picture(byte, "PNG"))
    yield Valid("PNG 16 bit", ".png", picture(byte.astype(np.uint16) * 200, "PNG"))
    yield Valid("PNG colour", ".png", picture(pixels((SIDE, SIDE, 3)).astype(np.uint8), "PNG"))
    yield Valid("JPEG file", ".jpg", picture(pixels((SIDE, SIDE, 3)).astype(np.uint8), "JPEG"))
    pages = [Image.fromarray(byte)] * 2
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate"):
        options = {"save_all": True, "append_images": pages, "compression": compression}
        yield Valid(f"TIFF {compression}", ".tif", picture(byte, "TIFF", **options))
    yield Valid("BMP", ".bmp", picture(byte, "BMP"))


def _packed(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, 1, mtime=0)
