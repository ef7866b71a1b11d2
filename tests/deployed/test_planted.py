"""Identifiers planted wherever a hospital's files hold some: none may be found in what is outside of the site.

The files are real DICOM, the processes and their messages too; every byte on the line is recorded, in both directions.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from harness import SIDE, Federation
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from omnifed.processes import free_port

NAMES = ("QUIXANO", "ZABALBEITIA", "WYRZYKOWSKI")
"""Words that occur nowhere by chance."""
PLANTS = (*NAMES, "19310717", "PID-77431-X", "ACC-55109", "ST-MUNGO-WARD7", "1.2.826.0.1.777.4711")


def planted_slice(pixels: np.ndarray, patient: int) -> FileDataset:
    """A CT slice whose header says who the patient is, in every place that has room for it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.Modality = CTImageStorage, "CT"
    uid = f"1.2.826.0.1.777.4711.{patient}"
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid + ".3"
    data.SeriesInstanceUID, data.StudyInstanceUID = uid + ".2", uid + ".1"
    data.FrameOfReferenceUID = generate_uid()
    data.PatientName, data.PatientID = f"QUIXANO^ALONSO^{patient}", f"PID-77431-X-{patient}"
    data.PatientBirthDate, data.AccessionNumber = "19310717", f"ACC-55109-{patient}"
    data.ReferringPhysicianName, data.InstitutionName = "ZABALBEITIA^DR", "ST-MUNGO-WARD7"
    data.StudyDescription = data.SeriesDescription = "CT of WYRZYKOWSKI"
    data.BodyPartExamined = "ABDOMEN"
    data.InstanceNumber = 1
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelSpacing = [0.5, 0.5]
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = pixels.astype("<i2").tobytes()
    block = data.private_block(0x0099, "WYRZYKOWSKI", create=True)
    block.add_new(1, "LO", "ACC-55109")
    return data


def plant(folder: Path, name: str) -> None:
    """A site whose folders, file names, headers and patient keys identify; one image and one mask are damaged."""
    from PIL import Image

    rows = ["image,mask,patient"]
    draw = np.random.default_rng(7)
    for k in range(9):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = draw.integers(4, 14, 2)
        mask[top : top + 12, left : left + 12] = 1
        patient = folder / f"QUIXANO_ALONSO_{k}_19310717"
        patient.mkdir(parents=True)
        image, truth = patient / f"PID-77431-X-{k}.dcm", patient / f"ZABALBEITIA_{k}.png"
        pydicom.dcmwrite(image, planted_slice(draw.integers(0, 120, (SIDE, SIDE)) + mask * 120, k))
        Image.fromarray(mask).save(truth)
        if k == 7:
            image.write_bytes(image.read_bytes()[:-700])
        if k == 8:
            truth.write_bytes(truth.read_bytes()[:40])
        rows.append(f"{image.relative_to(folder)},{truth.relative_to(folder)},PID-77431-X-{k}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    (folder / "site.toml").write_text(
        f'name = "{name}"\nmodality = "ct"\nimage_size = [{SIDE}, {SIDE}]\n'
        '[labels]\n0 = "background"\n1 = "square"\n[normalisation]\nkind = "percentile"\n'
    )


class Recorder:
    """A line to the coordinator that keeps every byte that passes."""

    def __init__(self, port: int) -> None:
        self.target, self.heard = port, bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for way in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.heard += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def spellings(word: str) -> Iterator[bytes]:
    """How a word may lie in a file."""
    for text in {word, word.lower(), word.capitalize()}:
        raw = text.encode()
        yield from (raw, text.encode("utf-16-le"), raw.hex().encode(), raw[::-1])
        # Base64 of a word within a longer text depends on where it starts: the middle of each of the three spellings.
        yield from (base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in range(3) if len(raw) > 6)


def found(data: bytes) -> set[str]:
    """Plants that occur in ``data``."""
    return {word for word in PLANTS if any(spelling in data for spelling in spellings(word))}


def test_the_search_itself_finds_each_plant_in_each_spelling() -> None:
    for word in PLANTS:
        for spelling in spellings(word):
            assert word in found(b"before " + spelling + b" after")
    assert found(b"nothing of this kind") == set()


@pytest.mark.slow
def test_no_planted_identifier_leaves_the_site(tmp_path: Path) -> None:
    stages = ["prepare", "teach", "train", "evaluate", "export"]
    metrics = free_port()
    with Federation(
        tmp_path / "f", ("north", "east"), arms=["omnikd"], stages=stages, rounds=2, metrics_port=free_port()
    ) as fed:
        for path in sorted(fed.data("north").rglob("*"), reverse=True):
            path.unlink()
        plant(fed.data("north"), "north")
        line = Recorder(fed.port)
        fed.start_server()
        server = f"127.0.0.1:{line.port}"
        fed.start_client("north", "--metrics-port", str(metrics), server=server)
        fed.start_client("east")
        fed.wait_event(lambda event: event["event"] == "evaluate" and event["site"] == "north")
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as page:
            pages = page.read()
        assert fed.finish(240) == 0
        assert fed.command("omnifed", "report", str(fed.run)).returncode == 0

        inside = (fed.data("north"), fed.state("north"))
        outside = {
            path: path.read_bytes()
            for path in fed.folder.rglob("*")
            if path.is_file() and not any(path.is_relative_to(folder) for folder in inside)
        }
        model = next(fed.state("north").glob("campaigns/*/models/omnikd/model.onnx"))  # what a site may pass on
        assert len(outside) > 30
        assert len(line.heard) > 100_000
        assert b"omnifed" in line.heard
        assert b"omnifed" in pages
        for name, data in {**outside, model: model.read_bytes(), "the line": line.heard, "metrics": pages}.items():
            assert found(bytes(data)) == set(), name
            if str(name).endswith(".gz"):
                assert found(gzip.decompress(bytes(data))) == set(), name
        # The plants are where they belong: the search would have found them.
        assert found((fed.data("north") / "index.csv").read_bytes())
        assert found(b"".join(path.read_bytes() for path in fed.data("north").rglob("*.dcm"))) == set(PLANTS)
