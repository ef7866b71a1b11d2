"""Label names as coded concepts, from the context groups of DICOM PS3.16 that pydicom carries. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

_GROUPS = (
    ("cid7192", "AnatomicalStructure"),
    ("cid7194", "MorphologicallyAbnormalStructure"),
    ("cid7166", "Tissue"),
    ("cid7193", "PhysicalObject"),
)
"""Context group of property types, and the category (CID 7150) that its concepts belong to; the first that fits."""
_NO_LABEL = {"normal", "background"}
_SYNONYMS = {
    "bone": "bonetissue",
    "bowel": "intestine",
    "fat": "adiposetissue",
    "greymatter": "graymatter",
    "largebowel": "largeintestine",
    "muscle": "muscletissue",
    "oesophagus": "esophagus",
    "smallbowel": "smallintestine",
    "tumor": "neoplasm",
    "tumour": "neoplasm",
    "vessel": "bloodvessel",
    "vertebrae": "vertebra",
}
"""Usual label names that PS3.16 spells otherwise."""


@dataclass(frozen=True)
class Concept:
    """What a segment is.

    Attributes:
        category: segmented property category (CID 7150).
        kind: segmented property type.
        side: left or right, None where the name does not say.
    """

    category: Code
    kind: Code
    side: Code | None = None


def concept(name: str) -> Concept:
    """Finds the coded concept of a label.

    Case, separators, a plural s and the words left and right do not matter: ``"Left_Kidneys"`` is a kidney, left.

    Args:
        name: the label's name.

    Returns:
        An exact match by name, never a guess: what is not known is a region in space (DCM 130488), and the label alone
        says what it is.
    """
    from pydicom.sr.codedict import codes

    words = re.findall(r"[^\W_]+", name.lower())
    sides = {"left", "right"} & set(words)
    found = _find("".join(words))
    if found is not None:
        return Concept(*found)
    found = _find("".join(word for word in words if word not in sides))
    if found is None:
        return Concept(codes.cid7150.SpatialAndRelationalConcept, codes.DCM.RegionInSpace)
    return Concept(*found, getattr(codes.SCT, sides.pop().capitalize()) if len(sides) == 1 else None)


def _find(key: str) -> tuple[Code, Code] | None:
    for name in (key, key.removesuffix("s")):
        found = _known().get(_SYNONYMS.get(name, name))
        if found is not None:
            return found
    return None


@cache
def _known() -> dict[str, tuple[Code, Code]]:
    """Names in lower case without separators to category and type."""
    from pydicom.sr.codedict import codes

    table: dict[str, tuple[Code, Code]] = {}
    for group, category in _GROUPS:
        concepts = getattr(codes, group)
        for keyword in concepts.dir():
            if keyword.lower() not in _NO_LABEL:
                table.setdefault(keyword.lower(), (getattr(codes.cid7150, category), getattr(concepts, keyword)))
    return table
