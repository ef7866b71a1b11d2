"""A model and its manifest on disk, so that neither is ever beside another's."""

from __future__ import annotations

from pathlib import Path

from omnifed.export.card import KEY
from omnifed.export.wire import metadata
from omnifed.files import write_atomic
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.manifest import Origin, manifest_path, sign_model


def write_model(path: Path, model: bytes, signer: SiteIdentity | None, origin: Origin) -> None:
    """Publishes a model, and its manifest where the site has an identity.

    A crash in between leaves a model without a manifest, which the next export makes.

    Args:
        path: of the model.
        model: its content, sealed.
        signer: whose signature it gets; None for a site that has joined no federation.
        origin: which training it is from.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    manifest_path(path).unlink(missing_ok=True)
    write_atomic(path, model)
    if signer is not None:
        sign(path, model, signer, origin)


def sign(path: Path, model: bytes, signer: SiteIdentity, origin: Origin) -> None:
    """Writes the manifest of a model that is there.

    Args:
        path, model, signer, origin: as :func:`write_model`.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    sign_model(path, model, metadata(model)[KEY], signer, origin)
