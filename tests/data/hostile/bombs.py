"""Small files that ask for all of a machine, and the number that each is refused with."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from valid_files import ct, eight_bit, encoded, of_syntax, picture, pixels, saved, segmentation

FLAT = pixels((24, 24))


@dataclass(frozen=True)
class Bomb:
    """One file: name with suffix, its bytes, the number, and whether it is read as a mask."""

    name: str
    make: Callable[[], bytes]
    code: str
    mask: bool = False


def deflated() -> bytes:
    """3 MB of zeros as 3 KB; the reader must not even try."""
    data = ct(FLAT)
    data.private_block(0x0013, "zeros", create=True).add_new(1, "OB", bytes(3 * 2**20))
    return of_syntax(data, "1.2.840.10008.1.2.1.99")


def nifti(shape: tuple[int, ...], kind: str = "<i2", **fields: object) -> bytes:
    """A NIfTI-1 header that claims a shape, without voxels."""
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    header["dim"][0], header["dim"][1 : 1 + len(shape)] = len(shape), shape
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + b"\0" * 4


def packed(head: bytes, zeros: int) -> bytes:
    """gzip of a header and zeros; a gzip file may have many parts."""
    return gzip.compress(head, mtime=0) + gzip.compress(bytes(2**22), 9, mtime=0) * (zeros // 2**22)


def extension() -> bytes:
    """A header extension of 2 GB less 16 bytes in a file of 600 KB."""
    size = 2**31 - 16
    head = nifti((4, 4, 4), vox_offset=float(2**31 - 2**10))[:-4] + b"\1\0\0\0" + struct.pack("<ii", size, 6)
    return packed(head, 600 * 2**20)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, data: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(data, 9))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def long_text() -> bytes:
    return png(4, 4, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**25), 9)), data=bytes(20))


def long_profile() -> bytes:
    return png(4, 4, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**25), 9)), data=bytes(20))


def tiff(width: int, height: int, *, next_at: int = 0, count: int = 1) -> bytes:
    """Pages of one strip; ``next_at`` is where the last one says that another one follows."""
    pages, at = b"", 8
    for k in range(count):
        entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, min(width * height, 2**32 - 1))]
        size = 2 + 12 * len(entries) + 4
        following = at + size if k + 1 < count else next_at
        pages += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
        pages += struct.pack("<I", following)
        at += size
    return b"II*\0" + struct.pack("<I", 8) + pages


def nested() -> bytes:
    """Sequences in sequences, 30,000 deep."""
    whole = saved(ct(FLAT))
    begin = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    place = whole.index(b"\x10\0\x10\0PN")
    return whole[:place] + begin * 30_000 + whole[place:]


def offsets() -> bytes:
    """RLE frames whose offset table points outside of the file."""
    data = ct(pixels((4, 24, 24)))
    data.compress(RLELossless)
    raw = saved(data)
    tag = raw.index(b"\xe0\x7f\x10\0OB") + 12
    length = struct.unpack_from("<I", raw, tag + 4)[0]
    return raw[: tag + 8] + b"\xf0\xff\xff\xff" * (length // 4) + raw[tag + 8 + length :]


def rle_of_nothing() -> bytes:
    data = ct(FLAT, Rows=8000, Columns=8000)
    data.PixelData = encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 400])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = RLELossless
    return saved(data)


def wavelet(side: int) -> bytes:
    """A JPEG 2000 code stream that claims another size."""
    raw = bytearray(picture(FLAT.astype(np.uint8), "JPEG2000", no_jp2=True))
    at = raw.index(b"\xff\x51") + 6
    raw[at : at + 8] = struct.pack(">II", side, side)
    return bytes(raw)


def jpeg_header(width: int, height: int) -> bytes:
    raw = bytearray(picture(np.zeros((8, 8), np.uint8), "JPEG"))
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(raw)


def endless_private() -> bytes:
    """A private element that claims 4 GB."""
    whole = saved(ct(FLAT))
    place = whole.index(b"\x18\0\x50\0DS")
    return whole[:place] + b"\x15\0\x10\0OB\0\0\xf0\xff\xff\xff" + whole[place:]


def seg_frames() -> bytes:
    data = pydicom.dcmread(io.BytesIO(segmentation()))
    data.NumberOfFrames = 2_000_000_000
    return saved(data)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed_files:
        packed_files.writestr("a.dcm", bytes(50 * 2**20))
    return file.getvalue()


def bmp() -> bytes:
    raw = bytearray(picture(np.zeros((4, 4), np.uint8), "BMP"))
    raw[18:26] = struct.pack("<ii", 100_000, 100_000)
    return bytes(raw)


def colours() -> bytes:
    """A palette that claims 65,536 entries of 16 bits and has one."""
    data = eight_bit(FLAT, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [0, 0, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", b"\0\0")
    return saved(data)


BOMBS = (
    Bomb("rows and columns.dcm", lambda: saved(ct(FLAT, Rows=65535, Columns=65535)), "OF213"),
    Bomb("two thousand million frames.dcm", lambda: saved(ct(FLAT, NumberOfFrames=2_000_000_000)), "OF213"),
    Bomb("frames without bytes.dcm", lambda: saved(ct(FLAT, NumberOfFrames=4000)), "OF212"),
    Bomb("deflated.dcm", deflated, "OF214"),
    Bomb("nested sequences.dcm", nested, "OF212"),
    Bomb("endless private element.dcm", endless_private, "OF216"),
    Bomb("offsets out of range.dcm", offsets, "OF212"),
    Bomb("RLE of nothing.dcm", rle_of_nothing, "OF212"),
    Bomb("large JPEG 2000 inside.dcm", lambda: encoded(eight_bit(FLAT), JPEG2000Lossless, [wavelet(8000)]), "OF212"),
    Bomb(
        "large JPEG inside.dcm", lambda: encoded(eight_bit(FLAT), JPEGBaseline8Bit, [jpeg_header(8000, 8000)]), "OF212"
    ),
    Bomb("palette of nothing.dcm", colours, "OF212"),
    Bomb("frames of a segmentation.dcm", seg_frames, "OF213", mask=True),
    Bomb("archive.dcm", archive, "OF212"),
    Bomb("axes.nii", lambda: nifti((30000, 30000, 30000)), "OF213"),
    Bomb("axes without voxels.nii", lambda: nifti((600, 600, 600)), "OF212"),
    Bomb("zeros.nii.gz", lambda: packed(nifti((640, 640, 640), "<f8"), 2004 * 2**20), "OF882"),
    Bomb("more than gzip can.nii.gz", lambda: packed(nifti((640, 640, 640), "<f8"), 2**22), "OF212"),
    Bomb("long extension.nii.gz", extension, "OF882"),
    Bomb("sides.png", lambda: png(60_000, 60_000, depth=1), "OF213"),
    Bomb("long text.png", long_text, "OF212"),
    Bomb("long profile.png", long_profile, "OF212"),
    Bomb("sides.tif", lambda: tiff(2**30, 2**30), "OF213"),
    Bomb("pages.tif", lambda: tiff(24, 24, count=4200), "OF213"),
    Bomb("pages in a circle.tif", lambda: tiff(24, 24, next_at=8), "OF212"),
    Bomb("sides.jpg", lambda: jpeg_header(65_000, 65_000), "OF213"),
    Bomb("sides.bmp", bmp, "OF213"),
    Bomb("archive.png", archive, "OF211"),
)


def write(bomb: Bomb, folder: Path) -> Path:
    path = folder / bomb.name
    path.write_bytes(bomb.make())
    return path
