"""A model's own check sum, so that damage between export and use is found before it becomes a wrong mask.

It guards against accidents: a torn copy, a failing disk, a tool that rewrote the file. Whoever changes a model on
purpose can seal it again; who made it is for a signature to say.
"""

from __future__ import annotations

import hashlib

from omnifed.errors import OmniFedError
from omnifed.export.wire import metadata

SEAL = "omnifed_sha256"
"""Metadata key of the check sum: sha256 of all bytes before its own entry, which is the file's last."""
_DIGITS = 64
_KEY = SEAL.encode()
# A length-delimited field 14 of ModelProto (metadata_props) with the fields 1 (key) and 2 (value): protobuf joins what
# is appended to a message with the repeated fields that it holds already.
_HEAD = bytes([0x72, 2 + len(_KEY) + 2 + _DIGITS, 0x0A, len(_KEY)]) + _KEY + bytes([0x12, _DIGITS])


def sealed(model: bytes) -> bytes:
    """The model with its check sum appended.

    Args:
        model: content of an ONNX file without a seal.
    """
    return model + _HEAD + hashlib.sha256(model).hexdigest().encode()


def check_seal(model: bytes) -> None:
    """Refuses a sealed model that was changed; one without a seal passes.

    Args:
        model: content of an ONNX file.

    Raises:
        OmniFedError: OF602 if the bytes are no protobuf message, OF616 if they are not those that were sealed.
    """
    if SEAL not in metadata(model):
        return
    body, end = model[: -len(_HEAD) - _DIGITS], model[-len(_HEAD) - _DIGITS :]
    if end != _HEAD + hashlib.sha256(body).hexdigest().encode():
        raise OmniFedError(
            "OF616",
            "An exported model must be, to the last bit, what was exported.",
            seen=f"sha256 {hashlib.sha256(body).hexdigest()[:16]}... is not the one that the export wrote into it",
            remedy="Copy or export the model again. Do not rewrite it with other tools.",
        )
