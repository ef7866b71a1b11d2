"""segment-anything beside a CPU-only torch.

``segment_anything`` imports torchvision for its prompt tools. torchvision's wheel from PyPI is built for CUDA; beside a
CPU-only torch its compiled operators do not load and the import ends with "operator torchvision::nms does not exist".
Nothing here calls those operators: declaring their schemas is enough for the import to pass. A whole torchvision is
left as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

_DECLARED: list[torch.library.Library] = []
_SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)


def import_segment_anything() -> ModuleType:
    """Imports ``segment_anything.modeling``, curing a torchvision whose operators are missing.

    Returns:
        The module with ``ImageEncoderViT``, ``MaskDecoder`` and ``TwoWayTransformer``.

    Raises:
        ImportError: segment-anything or torchvision is not installed.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _DECLARED:
            raise
        _declare()
    import segment_anything.modeling

    return segment_anything.modeling


def _declare() -> None:
    """Declares the operators that the broken wheel registers fakes for, and forgets the half-done imports."""
    library = torch.library.Library("torchvision", "DEF")
    for schema in (*_SCHEMAS, _SCHEMAS[0].replace("nms", "qnms", 1)):
        library.define(schema)
    _DECLARED.append(library)  # the declarations live as long as this object
    # Others (MONAI) may have tried before and left halves of both packages behind.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "segment_anything")]:
        del sys.modules[name]
