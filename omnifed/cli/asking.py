"""What commands about identity share: reading a signed file, and asking a person for a yes or a passphrase."""

from __future__ import annotations

import getpass
import os
import warnings
from pathlib import Path

import typer

from omnifed.errors import OmniFedError
from omnifed.trust.keyfiles import no_passphrase
from omnifed.trust.signing import Signed

PASSPHRASE = "OMNIFED_PASSPHRASE"
"""Environment variable: an argument would be seen by every user of the machine."""
SHORTEST, LONGEST = 16, 200
"""Characters of a passphrase: a key's file stretches it by little (:mod:`omnifed.trust.keyfiles`)."""


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


def passphrase() -> str:
    """The passphrase of an authority's keys, from the environment or typed unseen.

    Raises:
        OmniFedError: OF816 if there is nobody to ask.
    """
    return os.environ.get(PASSPHRASE) or _unseen("Passphrase of the authority's keys: ")


def new_passphrase(given: str = "") -> str:
    """A passphrase for an authority's keys, typed unseen, twice.

    Args:
        given: taken instead, if there is one.

    Raises:
        OmniFedError: OF816 if there is nobody to ask, OF817 if it is too short or too long, or typed differently.
    """
    found = given or _unseen("New passphrase of the authority's keys: ")
    if not SHORTEST <= len(found) <= LONGEST:
        raise _unfit(f"{len(found)} characters")
    if not given and _unseen("The same again: ") != found:
        raise _unfit("two different ones")
    return found


def _unseen(question: str) -> str:
    try:
        with warnings.catch_warnings():
            # Where it cannot hide what is typed, Python warns and shows it.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(question)
    except (getpass.GetPassWarning, EOFError, KeyboardInterrupt):
        raise no_passphrase("no answer") from None


def _unfit(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF817",
        f"A new passphrase has {SHORTEST} to {LONGEST} characters, and is typed twice.",
        seen=seen,
        remedy="Take five words or more that nobody would put together, drawn by dice for instance.",
    )
