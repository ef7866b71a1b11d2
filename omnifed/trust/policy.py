"""What a site lets a federation do with its data, signed by the site: ``policy.toml`` and ``policy.sig``.

The stricter of a request and the policy holds. Nothing of a policy, not even its hash, travels.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from omnifed.config import Frozen, parse
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust.roster import HEX_KEY, SITE_NAME
from omnifed.trust.signing import Signed, SigningKey

POLICY = "policy"
"""Context of the signature."""
FILE, SIGNATURE = "policy.toml", "policy.sig"
Kind = Literal["teach", "fit", "evaluate", "export", "trial", "bench"]
Mode = Literal["mean", "private", "robust"]


class Policy(Frozen):
    """A site's rules. docs/policy.md says of each what it stops.

    Attributes:
        purposes: of campaigns that are served.
        tasks: kinds that are served; greetings always are, and the exchanges of a private round belong to ``fit``.
        modes: in which weights may leave the site.
        max_campaigns: that may ever ask for anything but a greeting.
        max_rounds: trainings of one campaign, over all its arms.
        epsilon: the most that a patient may spend in all campaigns together; 0 sets no bound of its own.
        require_dp: no student is trained without differential privacy; a teacher may be, as it never leaves.
        min_sites: of a private round.
        min_threshold: sites that must stay to the end of a private round, if it is more than two thirds of them and
            more than 3.
        partners: sites that must take part in a private round, with the fingerprints of their keys.
        min_cases: classes with fewer cases, and smaller counts, leave the site suppressed.
        expires: the last day on which the policy holds.
    """

    purposes: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")], ...] = ("research",)
    tasks: tuple[Kind, ...] = ("teach", "fit", "evaluate", "export", "trial", "bench")
    modes: tuple[Mode, ...] = ("mean", "private", "robust")
    max_campaigns: int = Field(20, ge=1)
    max_rounds: int = Field(200, ge=1)
    epsilon: float = Field(8.0, ge=0, le=8)
    require_dp: bool = False
    min_sites: int = Field(3, ge=2)
    min_threshold: int = Field(0, ge=0)
    partners: dict[Annotated[str, Field(pattern=SITE_NAME)], Annotated[str, Field(pattern=r"^[0-9a-f ]{32,40}$")]] = {}
    min_cases: int = Field(20, ge=1)
    expires: date

    def check_date(self, today: date | None = None, then: str = "omnifed-client policy sign --site NAME") -> None:
        """Refuses to go on after the last day (UTC).

        Args:
            today: for tests.
            then: command with which a new date takes effect.

        Raises:
            OmniFedError: OF821.
        """
        if (today or datetime.now(UTC).date()) > self.expires:
            raise OmniFedError(
                "OF821",
                "A site works while its policy holds.",
                seen=f"it expired on {self.expires}",
                remedy=f"Review policy.toml, set a new date, then: {then}.",
            )


class Approval(Frozen):
    """What ``policy.sig`` signs.

    Attributes:
        sha256: of the file, hex.
        expires: as in the file.
        signed: when.
    """

    sha256: str = Field(pattern=HEX_KEY)
    expires: date
    signed: datetime


def read_policy(folder: Path, trusted: Collection[str] | None, today: date | None = None) -> Policy:
    """The policy in force.

    Args:
        folder: identity folder of the site.
        trusted: public keys (hex) of the site; None where it has no identity and nobody could sign.
        today: for tests.

    Raises:
        OmniFedError: OF820 if it is absent, or not signed as it is; OF821 if it has expired; OF101 or OF102 if it
            cannot be read.
    """
    data = _content(folder)
    if trusted is not None:
        _check_signature(folder, data, trusted)
    policy = _parsed(folder, data)
    policy.check_date(today)
    return policy


def load_policy(folder: Path) -> Policy:
    """The policy as the file says, signed or not.

    Raises:
        OmniFedError: OF820 if there is none, OF101 or OF102 if it cannot be read.
    """
    return _parsed(folder, _content(folder))


def policy_hash(folder: Path) -> str:
    """sha256 of the file, hex: by it the audit log tells one policy from another."""
    return hashlib.sha256(_content(folder)).hexdigest()


def renew_signature(folder: Path, key: SigningKey) -> None:
    """Signs a policy that is in force once more, if another key of the site has signed it: the site has rotated its
    keys, and the roster will forget the old one.
    """
    if Signed.read((folder / SIGNATURE).read_bytes(), SIGNATURE).key != key.public:
        sign_policy(folder, key)


def sign_policy(folder: Path, key: SigningKey) -> Policy:
    """Signs the file as it is.

    Raises:
        OmniFedError: OF820 if there is none, OF821 if it has expired, OF101 or OF102 if it cannot be read.
    """
    data = _content(folder)
    policy = _parsed(folder, data)
    policy.check_date()
    about = Approval(sha256=hashlib.sha256(data).hexdigest(), expires=policy.expires, signed=datetime.now(UTC))
    write_atomic(folder / SIGNATURE, Signed.seal(POLICY, about, key).to_json(), mode=0o600)
    return policy


def _content(folder: Path) -> bytes:
    try:
        return (folder / FILE).read_bytes()
    except OSError as error:
        raise _unsigned(f"{folder / FILE}: {error.strerror}") from None


def _parsed(folder: Path, data: bytes) -> Policy:
    try:
        values = tomllib.loads(data.decode())
    except ValueError as error:  # also what is no UTF-8
        raise OmniFedError(
            "OF101",
            "A configuration file must be readable TOML.",
            seen=f"{folder / FILE}: {error}",
            remedy="Check the line that the message names.",
        ) from None
    return parse(Policy, values, str(folder / FILE))


def _check_signature(folder: Path, data: bytes, trusted: Collection[str]) -> None:
    try:
        signed = Signed.read((folder / SIGNATURE).read_bytes(), SIGNATURE)
        about = signed.open(POLICY, Approval, trusted, SIGNATURE)
    except OSError as error:
        raise _unsigned(f"{folder / SIGNATURE}: {error.strerror}") from None
    except OmniFedError as error:
        raise _unsigned(error.seen) from None
    if about.sha256 != hashlib.sha256(data).hexdigest():
        raise _unsigned(f"{folder / FILE} was changed after it was signed on {about.signed:%Y-%m-%d}")


def _unsigned(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF820",
        "A site works under a policy that it has signed as it is.",
        seen=seen,
        remedy="Read the file, then: omnifed-client policy sign --site NAME (where there is none it writes one first).",
    )
