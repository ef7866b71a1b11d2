"""The version of what coordinator and site say to each other, and how a newer end speaks to an older one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from omnifed.config import Frozen
from omnifed.errors import OmniFedError

PROTOCOL = 5
"""Version of this schema. Both ends say theirs at hello, and speak the older of the two from then on."""

MIN_PROTOCOL = 2
"""Oldest version that this release still speaks; an end that is older is told so, with the remedy."""

SINCE: dict[str, int] = {
    **{"trial": 3, "bench": 3, "*.purpose": 4, "fit.privacy": 4, "fit.attempt": 4, "fit.keys": 4},
    **{"shares": 4, "masked": 4, "unmask": 4, "*.teacher.public": 5},
}
"""``"kind.field": version`` of fields (``*`` for those of every task, with dots for those inside), ``"kind": version``
of whole tasks and replies, that are newer than :data:`MIN_PROTOCOL`: an older end never sees them."""


def speak(body: BaseModel, protocol: int) -> dict[str, Any]:
    """The fields of a task or reply for an end that understands ``protocol``.

    Raises:
        OmniFedError: OF513 if ``body`` uses a field that the other end does not know.
    """
    values = body.model_dump(mode="python") | {"protocol": protocol}
    for name, since in SINCE.items():
        kind, _, field = name.partition(".")
        if since > protocol and kind in ("*", values["kind"]) and (not field or _without(values, body, field)):
            raise OmniFedError(
                "OF513",
                f"A site must speak protocol {since} for what this campaign asks of it ({name}).",
                seen=f"protocol {protocol}",
                remedy="Upgrade omnifed at the site.",
            )
    return values


def _without(values: dict[str, Any], body: BaseModel, field: str) -> bool:
    """Takes a field out of a body's ``values``, where it is there; whether it says anything but its default."""
    outer, _, inner = field.partition(".")
    if inner:
        part = getattr(body, outer, None)
        return isinstance(part, BaseModel) and _without(values[outer], part, inner)
    return outer in values and values.pop(outer) != _default(body, outer)


def _default(body: BaseModel, field: str) -> Any:
    value = type(body).model_fields[field].default
    return value.model_dump(mode="python") if isinstance(value, Frozen) else value
