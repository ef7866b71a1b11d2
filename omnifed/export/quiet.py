"""The exporters' progress, warnings and advice are none of the user's business."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnxruntime

_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "root")


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keeps what torch, onnxscript and ONNX Runtime's quantiser print and log from the user."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        onnxruntime.set_default_logger_severity(4)  # of sessions that the quantiser opens
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(2)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
