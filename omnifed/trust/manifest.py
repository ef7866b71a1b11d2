"""Who made a model: a signed manifest that lies beside it as ``MODEL.manifest.json``.

It binds the file's bytes to a site, a federation and what was promised to the patients behind it. The date in it is the
signer's own word: a key that was stolen can date back. So a site that was revoked later is not vouched for any more. A
key that has only ended still vouches for what it dates before its end.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust.artefact import read_regular
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.roster import FEDERATION_NAME, HEX_KEY, SITE_NAME
from omnifed.trust.signing import Signed

MANIFEST = "manifest"
"""Context of its signature."""
MOST_BYTES = 64 * 2**10
ORIGIN = "origin.json"
"""What a site notes of an arm's training, beside the arm's states: :class:`Origin`."""
Mode = Literal["mean", "private", "robust"]


class Origin(Frozen):
    """Which training a model is from.

    Attributes:
        campaign, arm: of the federation's coordinator; "" where unknown.
        mode: how the sites' updates were combined, see :class:`omnifed.privacy.spec.AggregationSpec`; None: unknown.
        epsilon, delta: of differential privacy by patient at this site; None: without.
    """

    campaign: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,60}$")
    arm: str = Field("", pattern=r"^[a-z0-9_-]{0,40}$")
    mode: Mode | None = None
    epsilon: float | None = Field(None, gt=0)
    delta: float | None = Field(None, gt=0, lt=1)


class Manifest(Frozen):
    """What a site says of a model that it has exported.

    Attributes:
        format: version of this schema.
        file: name of the model when it was signed; a copy may have another.
        bytes, sha256: of the whole file.
        card_sha256: of the card's JSON text (:class:`omnifed.export.card.ExportCard`) inside.
        federation, site: who signed.
        origin: which training it is from.
        created: when, by the signer's clock.
        key: public key of the signer, hex.
    """

    format: Literal[1] = 1
    file: str = Field(pattern=r"^[^/\\\x00-\x1f\x7f]{1,255}$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=HEX_KEY)
    card_sha256: str = Field(pattern=HEX_KEY)
    federation: str = Field(pattern=FEDERATION_NAME)
    site: str = Field(pattern=SITE_NAME)
    origin: Origin = Origin()
    created: AwareDatetime
    key: str = Field(pattern=HEX_KEY)


def manifest_path(model: Path) -> Path:
    """Where the manifest of a model lies."""
    return model.with_name(f"{model.name}.manifest.json")


def origin_of(arm: Path) -> Origin:
    """What the site noted of an arm's training; campaign and arm alone where it noted nothing.

    Args:
        arm: folder of the arm's states, ``campaigns/CAMPAIGN/arms/ARM``.
    """
    try:
        return Origin.model_validate_json((arm / ORIGIN).read_bytes())
    except (OSError, ValidationError):
        return Origin(campaign=arm.parent.parent.name, arm=arm.name)


def sign_model(
    path: Path, model: bytes, card: str, identity: SiteIdentity, origin: Origin, *, now: datetime | None = None
) -> Manifest:
    """Writes the manifest of a model beside it.

    Args:
        path: of the model.
        model: its content.
        card: JSON text of its card.
        identity: of the site that signs.
        origin: which training it is from.
        now: for tests.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    manifest = Manifest(
        file=path.name,
        bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
        card_sha256=hashlib.sha256(card.encode()).hexdigest(),
        federation=identity.kit.federation,
        site=identity.site,
        origin=origin,
        created=now or datetime.now(UTC),
        key=identity.key.public,
    )
    write_atomic(manifest_path(path), Signed.seal(MANIFEST, manifest, identity.key).to_json())
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest and checks its signature by the key that it names; whose that is, is another question.

    Raises:
        OmniFedError: OF872 if there is none, OF802 if it was altered, OF870 if it is no regular file.
    """
    if not path.exists() and not path.is_symlink():
        raise OmniFedError(
            "OF872",
            "A signed model has its manifest beside it.",
            seen=f"no {path}",
            remedy="Copy MODEL.manifest.json with the model, name it with --manifest, or export the model at a site "
            "that has joined a federation.",
        )
    data = read_regular(path, MOST_BYTES)
    signed = Signed.read(data, path.name)
    # One document, one text: else a changed byte (in a signature's unused bits, between the fields) would pass.
    if signed.to_json() != data or not _is_canonical(signed.signature):
        raise _rewritten(path)
    manifest = signed.open(MANIFEST, Manifest, (signed.key,), path.name)
    return manifest if manifest.key == signed.key else signed.open(MANIFEST, Manifest, (manifest.key,), path.name)


def check_content(manifest: Manifest, model: bytes) -> None:
    """Checks that a manifest is about these very bytes.

    Raises:
        OmniFedError: OF871.
    """
    found = hashlib.sha256(model).hexdigest()
    if (manifest.bytes, manifest.sha256) != (len(model), found):
        raise unlike(
            f"{len(model)} bytes, sha256 {found[:16]}...; the manifest is about {manifest.bytes} bytes, "
            f"{manifest.sha256[:16]}..."
        )


def check_card(manifest: Manifest, card: str) -> None:
    """Checks that a model's card is the one that was signed.

    Raises:
        OmniFedError: OF871.
    """
    if hashlib.sha256(card.encode()).hexdigest() != manifest.card_sha256:
        raise unlike("another card")


def unlike(seen: str) -> OmniFedError:
    """OF871 with what was seen."""
    return OmniFedError(
        "OF871",
        "A model must be, to the last bit, the one that its manifest is about.",
        seen=seen,
        remedy="Copy model and manifest again, both from the same export.",
    )


def stranger(seen: str) -> OmniFedError:
    """OF873 with what was seen."""
    return OmniFedError(
        "OF873",
        "A trusted model was signed by a site that was a member of the federation then, and has not been revoked.",
        seen=seen,
        remedy="Ask the site for a model that it signs anew, and the coordinator for the current roster; compare the "
        "fingerprint of the federation's root by telephone.",
    )


def _is_canonical(signature: str) -> bool:
    try:
        return base64.b64encode(base64.b64decode(signature, validate=True)).decode() == signature
    except ValueError:
        return False


def _rewritten(path: Path) -> OmniFedError:
    return OmniFedError(
        "OF802",
        "A document that others must trust is whole and signed by the key that it should be signed by.",
        seen=f"{path.name}: not byte for byte what an export writes",
        remedy="Copy it again; do not format or edit it.",
    )
