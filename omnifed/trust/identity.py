"""What a site and a coordinator hold to prove who they are, as it lies on their disks.

A site's folder (``STATE/identity``, mode 0700): ``site.key`` (Ed25519), ``node.key`` (EC P-384, for Flower's node),
both made there; ``vault.key`` (32 random bytes, for what is kept encrypted); ``kit.json`` as the coordinator answered;
``ca.pem`` out of the kit; ``roster.json``, the newest one that was seen.

A coordinator's folder: ``federation.json``, ``sign.key`` (Ed25519), ``server.pem`` and ``server.key`` (TLS),
``ca.pem``, ``roster.json``; and ``authority/`` with ``root.key`` (Ed25519) and ``ca.key``, which are needed to admit,
revoke and rotate alone and may lie on another disk.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust.kit import Address, Kit, host_of, open_kit
from omnifed.trust.roster import FEDERATION_NAME, HEX_KEY, ROSTER, Roster, open_roster, outdated
from omnifed.trust.signing import Signed, SigningKey

GUARD = "guard.lock"
"""Lock file in a site's folder: whoever writes a roster there holds it."""


class Federation(Frozen):
    """``federation.json`` of a coordinator's folder.

    Attributes:
        name: of the federation.
        root: public key of the authority, hex.
        server: HOST:PORT, as sites reach the coordinator.
    """

    name: str = Field(pattern=FEDERATION_NAME)
    root: str = Field(pattern=HEX_KEY)
    server: Address

    @property
    def host(self) -> str:
        """Name or address of the coordinator, without port and brackets."""
        return host_of(self.server)


@dataclass(frozen=True)
class SiteIdentity:
    """A site that has joined.

    Attributes:
        folder: where it lies.
        kit: as signed by the authority, verified.
        key: signs replies, shares, the policy and the audit log.
    """

    folder: Path
    kit: Kit
    key: SigningKey

    @classmethod
    def load(cls, folder: Path) -> SiteIdentity:
        """Reads the identity of a site.

        Raises:
            OmniFedError: OF804 if the site has not joined, OF801 or OF802 if a file is damaged.
        """
        file = folder / "kit.json"
        if not file.is_file():
            raise OmniFedError(
                "OF804",
                "A site joins a federation before it works for it.",
                seen=f"no {file}",
                remedy="Run omnifed-client enrol, send the request to the coordinator, then omnifed-client join KIT. "
                "To try it on one machine: --insecure.",
            )
        return cls(folder, open_kit(Signed.read(file.read_bytes(), "kit.json")), SigningKey.load(folder / "site.key"))

    @property
    def site(self) -> str:
        """Registered name."""
        return self.kit.site

    @property
    def node_key(self) -> Path:
        """Private key of Flower's node."""
        return self.folder / "node.key"

    @property
    def ca(self) -> Path:
        """Certificate of the authority behind the coordinator's TLS certificate."""
        return self.folder / "ca.pem"

    @property
    def vault(self) -> bytes:
        """Key (32 bytes) of what the site keeps encrypted; made when it is first asked for."""
        return vault_key(self.folder / "vault.key")

    def roster(self) -> Roster:
        """The newest roster that this site has seen.

        Raises:
            OmniFedError: OF802 if it is not the authority's, OF803 if it has expired.
        """
        return open_roster(self.signed_roster(), self.kit.root)

    def held(self) -> Roster:
        """The newest roster that this site has seen, expired or not.

        Raises:
            OmniFedError: OF802 if it is not the authority's.
        """
        return self.signed_roster().open(ROSTER, Roster, (self.kit.root,), "the roster")

    def accept(self, signed: Signed) -> Roster:
        """Takes a roster that came with a task: on disk before it counts. Its caller holds :data:`GUARD`.

        Raises:
            OmniFedError: OF802 if it is not the authority's, OF803 if it is older than one seen before, has expired, or
                is another one of the same version: not all sites are shown the same.
        """
        seen = self.held()
        roster = open_roster(signed, self.kit.root, newer_than=seen.version)
        if roster.version > seen.version:
            write_atomic(self.folder / "roster.json", signed.to_json(), mode=0o600)
        elif roster != seen:
            raise outdated(roster, seen.version)
        return roster

    def signed_roster(self) -> Signed:
        """The newest roster that this site has seen, as it travels.

        Raises:
            OmniFedError: OF802 if the file is damaged.
        """
        file = self.folder / "roster.json"
        return Signed.read(file.read_bytes(), "roster.json") if file.is_file() else self.kit.roster


@dataclass(frozen=True)
class CoordinatorIdentity:
    """A coordinator's online half: it can run campaigns, and admit nobody.

    Attributes:
        folder: where it lies.
        about: name, authority, address.
        key: signs tasks.
    """

    folder: Path
    about: Federation
    key: SigningKey

    @classmethod
    def load(cls, folder: Path) -> CoordinatorIdentity:
        """Reads the identity of a coordinator.

        Raises:
            OmniFedError: OF805 if there is none, OF801 if the key is damaged.
        """
        try:
            about = Federation.model_validate_json((folder / "federation.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise OmniFedError(
                "OF805",
                "A coordinator has an identity, made once for its federation.",
                seen=f"{folder / 'federation.json'}: {type(error).__name__}",
                remedy="Run omnifed-server init, then name its folder as identity in the federation's file.",
            ) from None
        _finish_rotation(folder, about.root)
        return cls(folder, about, SigningKey.load(folder / "sign.key"))

    def speaking(self) -> tuple[SigningKey, Signed]:
        """The key that signs now and a roster that names it, both read anew, as keys are rotated while campaigns run.

        Raises:
            OmniFedError: OF801, OF802 or OF805 if a file is absent or damaged.
        """
        key, signed = CoordinatorIdentity.load(self.folder).key, self.signed_roster()
        named = signed.open(ROSTER, Roster, (self.about.root,), "the roster").coordinator_keys()
        if key.public not in named:  # rotated between the two looks: loading puts the key of this roster in place
            key = CoordinatorIdentity.load(self.folder).key
        return key, signed

    def signed_roster(self) -> Signed:
        """The current roster as it travels; read anew at each call, as sites are admitted while campaigns run.

        Raises:
            OmniFedError: OF802 if the file is absent or damaged.
        """
        file = self.folder / "roster.json"
        return Signed.read(file.read_bytes() if file.is_file() else b"", str(file))

    def roster(self) -> Roster:
        """The current roster.

        Raises:
            OmniFedError: OF802 if it is not the authority's, OF803 if it has expired.
        """
        return open_roster(self.signed_roster(), self.about.root)

    def held(self) -> Roster:
        """The current roster, expired or not.

        Raises:
            OmniFedError: OF802 if it is not the authority's.
        """
        return self.signed_roster().open(ROSTER, Roster, (self.about.root,), "the roster")


def vault_key(path: Path) -> bytes:
    """The 32 bytes in ``path``, made at the first call, mode 0600."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        write_atomic(made, secrets.token_bytes(32), mode=0o600)
        # Of two processes that make it at the same moment, both must go on with the same one.
        with suppress(FileExistsError):
            os.link(made, path)
        made.unlink()
    return path.read_bytes()


def _finish_rotation(folder: Path, root: str) -> None:
    """Puts keys in place that a rotation has made, once the roster names them.

    A rotation leaves them beside the old ones, signs the roster, and comes here; after a crash the next start does.
    """
    waiting = folder / "sign.key.next"
    if not waiting.is_file():
        return
    key = SigningKey.load(waiting).public
    file = folder / "roster.json"
    signed = Signed.read(file.read_bytes() if file.is_file() else b"", str(file))
    if key in (term.sign for term in signed.open(ROSTER, Roster, (root,), "the roster").coordinator):
        # The signing key last, as it says that there is something to finish.
        for name in ("server.key", "server.pem", "sign.key"):
            with suppress(FileNotFoundError):
                os.replace(folder / f"{name}.next", folder / name)
