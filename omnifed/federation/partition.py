"""What of a student is averaged, and where a federation starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omnifed.models.base import LayerGroup, SiteSpec, partition
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import to_state
from omnifed.states import State


def start(student: StudentSpec, site: SiteSpec, local: Iterable[LayerGroup], seed: int) -> tuple[State, State]:
    """The first weights of a federation, from the seed alone: the coordinator needs no site's data.

    Args:
        student: what is averaged; the largest one where sites train slices of it.
        site: channels and classes; they matter only where stem or head are averaged.
        local: groups that stay at the sites.
        seed: of the weights.

    Returns:
        The global part and the local part of the student's state.
    """
    model: Any = build_student(student, site, seed=seed)
    sides = partition(model.layer_groups(), local)
    state = to_state(model)
    return (
        {key: value for key, value in state.items() if sides[key] == "global"},
        {key: value for key, value in state.items() if sides[key] == "local"},
    )
