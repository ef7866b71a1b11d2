"""What a site's patients have spent: every release of a differentially private fit, in any campaign. Needs no torch.

A release is booked before its first step, so that a crash can only count too much. No campaign resets the ledger. A
patient may come and go between releases, so it knows releases by their patients: what counts for some patients is every
release that at least one of them took part in.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.files import write_json

FOLDER, FILE = "privacy", "ledger.json"
"""In a site's state folder: one for all campaigns."""


class Cost(Frozen):
    """Steps of DP-SGD that were alike.

    Attributes:
        sigma: noise multiplier.
        rate: probability with which a step takes a patient.
        steps: their number.
    """

    sigma: float = Field(gt=0)
    rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)


class Release(Cost):
    """One round's update, or what was begun of it.

    Attributes:
        id: random, of this very release.
        campaign, arm, round: what it was for.
        patients: fingerprint of the training patients, see :class:`Ledger`.
        count: their number.
        delta: at which the arm's epsilon counts.
        clip: L2 norm of one patient's gradient.
    """

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    campaign: str
    arm: str
    round: int = Field(ge=0)
    patients: str
    count: int = Field(ge=1)
    delta: float = Field(gt=0, lt=1)
    clip: float = Field(gt=0)


class _Book(Frozen):
    """The file: ``groups`` has the salted hashes of the patients by their fingerprint."""

    version: int = Field(1, ge=1, le=1)
    salt: str
    groups: dict[str, tuple[str, ...]] = {}
    releases: tuple[Release, ...] = ()


class Ledger:
    """The ledger in a site's folder; mode 0600, it never leaves.

    Args:
        folder: STATE/privacy.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    @property
    def releases(self) -> tuple[Release, ...]:
        """All releases, in the order of booking.

        Raises:
            OmniFedError: OF854 if the file is damaged.
        """
        return self._read().releases

    def of(self, patients: Collection[str]) -> tuple[Release, ...]:
        """Releases that at least one of ``patients`` took part in.

        Raises:
            OmniFedError: OF854 if the file is damaged.
        """
        book = self._read()
        return _touched(book, set(_hashes(patients, book.salt)))

    def of_newest(self) -> tuple[Release, ...]:
        """Releases that at least one patient of the newest one took part in.

        Raises:
            OmniFedError: OF854 if the file is damaged.
        """
        book = self._read()
        return _touched(book, set(book.groups[book.releases[-1].patients])) if book.releases else ()

    def book(self, patients: Collection[str], **about: object) -> Release:
        """Books a release; it is on disk when this returns.

        Args:
            patients: keys of the training patients.
            about: fields of :class:`Release` but ``id``, ``patients`` and ``count``.

        Raises:
            OmniFedError: OF854 if the file is damaged, OF103 if the disk is full: nothing may be trained then.
        """
        book = self._read()
        hashes = _hashes(patients, book.salt)
        group = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        values = {**about, "id": secrets.token_hex(16), "patients": group, "count": len(hashes)}
        release = Release.model_validate(values)
        new = _Book(salt=book.salt, groups={**book.groups, group: tuple(hashes)}, releases=(*book.releases, release))
        write_json(self.path, new.model_dump(mode="json"), mode=0o600)
        return release

    def _read(self) -> _Book:
        try:
            return _Book.model_validate(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return _Book(salt=secrets.token_hex(16))
        except (OSError, ValueError, ValidationError) as error:
            raise OmniFedError(
                "OF854",
                "What patients have spent must be known before they train again: the ledger must be whole.",
                seen=f"{self.path}: {type(error).__name__}",
                remedy="Restore privacy/ledger.json from a backup; without it no private fit is safe at this site.",
            ) from None


def _touched(book: _Book, hashes: set[str]) -> tuple[Release, ...]:
    groups = {name for name, group in book.groups.items() if not hashes.isdisjoint(group)}
    return tuple(release for release in book.releases if release.patients in groups)


def _hashes(patients: Collection[str], salt: str) -> Sequence[str]:
    key = bytes.fromhex(salt)
    return sorted({hashlib.blake2b(p.encode(), key=key, digest_size=12).hexdigest() for p in patients})
