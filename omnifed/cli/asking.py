"""What commands about identity share: reading a signed file, and asking a person to compare fingerprints."""

from __future__ import annotations

from pathlib import Path

import typer

from omnifed.errors import OmniFedError
from omnifed.trust.signing import Signed


def read_signed(file: Path) -> Signed:
    """A signed document from a file; nothing is verified yet.

    Raises:
        OmniFedError: OF809 if the file cannot be read, OF802 if it is no signed document.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise OmniFedError(
            "OF809",
            "A request or a kit is a file that can be read.",
            seen=f"{file}: {error.strerror}",
            remedy="Check the path.",
        ) from None
    return Signed.read(data, str(file))


def confirm(question: str, yes: bool) -> None:
    """Goes on if a person says yes; ends the command with status 1 if not.

    Raises:
        OmniFedError: OF809 if there is nobody to ask.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        raise OmniFedError(
            "OF809",
            "A person compares fingerprints before keys are trusted.",
            seen="no answer",
            remedy="Run it on a terminal; in scripts compare the fingerprint yourself and give --yes.",
        ) from None
    if not agreed:
        typer.echo("Nothing was changed.")
        raise typer.Exit(1)
