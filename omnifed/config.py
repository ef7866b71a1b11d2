"""Configuration: frozen pydantic models, unknown keys refused, errors that carry the path of the key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from omnifed.errors import OmniFedError


class Frozen(BaseModel):
    """Base of every configuration and task: immutable, and an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], values: Mapping[str, Any], source: str) -> M:
    """Checks ``values`` against ``model``.

    Args:
        model: the pydantic model.
        values: the raw mapping.
        source: where the values come from, for the error.

    Raises:
        OmniFedError: OF102, one line a broken key, each with its path (``splits.val: ...``).
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or '(whole)'}: {e['msg']} (seen {e['input']!r:.80})" for e in error.errors()
        ]
        raise OmniFedError(
            "OF102",
            "The configuration must match its schema; unknown keys are refused.",
            seen=f"{source}: " + "; ".join(lines),
            remedy="Correct or remove the named keys.",
        ) from None


def load_toml(model: type[M], path: Path) -> M:
    """Reads a TOML file into ``model``.

    Raises:
        OmniFedError: OF101 if the file cannot be read or is not TOML, OF102 if a key is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OmniFedError(
            "OF101",
            "A configuration file must be readable TOML.",
            seen=f"{path}: {error}",
            remedy="Check the path and the line that the message names.",
        ) from None
    return parse(model, values, str(path))
