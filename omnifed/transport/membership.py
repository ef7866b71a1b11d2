"""Who may connect: the nodes of a SuperLink are the members of the federation's roster, also while it changes.

Nobody registers a node by hand. Within a second of ``admit`` the site can connect; within a second of ``revoke``, or of
the end of its keys, the SuperLink refuses whatever its node asks. A restarted node gets a new id, as the sites of a
federation without identity do: what was given to the old one is known to be lost, and is sent again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from omnifed.errors import OmniFedError
from omnifed.trust.identity import CoordinatorIdentity
from omnifed.trust.roster import Roster, Standing, open_roster

log = logging.getLogger("omnifed.transport")
IDENTITY = "OMNIFED_IDENTITY"
"""Environment variable: the coordinator's identity folder."""
STANDING = "/v1/standing/"
"""Path below which anybody who knows a node's public key may ask what it is to the federation."""
CHECK_S = 1.0
OWNER = "omnifed"


def digest(node: str) -> str:
    """The name of a node's public key in :data:`STANDING`: sha256 (hex) of its OpenSSH text, as the roster has it."""
    return hashlib.sha256(node.encode()).hexdigest()


class Members:
    """Keeps a link state's nodes equal to the roster's members.

    Args:
        folder: the coordinator's identity.
        state: Flower's link state in memory.

    Raises:
        OmniFedError: OF802, OF803 or OF805 if there is no valid roster.
    """

    def __init__(self, folder: Path, state: Any) -> None:
        self.identity, self.state = CoordinatorIdentity.load(folder), state
        self._file = folder / "roster.json"
        self._stamp = self._look()
        self.roster = self.identity.roster()
        self.apply()

    def refresh(self) -> None:
        """Takes the roster if its file has changed, and what time has changed in it."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                signed = self.identity.signed_roster()
                self.roster = open_roster(signed, self.identity.about.root, newer_than=self.roster.version)
            except OmniFedError as error:
                log.error("the roster of before stays in force: %s", error)
        self.apply()

    def apply(self, now: datetime | None = None) -> None:
        """Creates a node for each valid key, and deletes all others.

        Args:
            now: for tests.
        """
        wanted = _valid_keys(self.roster, now or datetime.now(UTC))
        with self.state.lock:
            for key in set(self.state.node_public_key_to_node_id) - set(wanted):
                self._delete(key)
            for key, site in wanted.items():
                if self.state.get_node_id_by_public_key(key) is None:
                    self._create(key, site)

    def renew(self, key: bytes) -> None:
        """Gives a member whose node connects again a new node id: the old node's work is then known to be lost.

        Args:
            key: its public key, PEM, as the node has proved that it holds it.
        """
        with self.state.lock:
            node_id = self.state.get_node_id_by_public_key(key)
            if node_id is not None and self.state.nodes[node_id].last_activated_at:
                site = self.state.nodes[node_id].name
                self._delete(key)
                self._create(key, site)

    def standing(self, name: str, now: datetime | None = None) -> Standing | None:
        """What the key with this :func:`digest` is; None while the roster itself has expired.

        Args:
            name: of the key.
            now: for tests.
        """
        now = now or datetime.now(UTC)
        if now >= self.roster.expires:
            return None
        for member in self.roster.members:
            for term in member.terms:
                if digest(term.node) == name:
                    if self.roster.standing(member.site, now) == "revoked":
                        return "revoked"
                    return "member" if term.valid(now) else "expired"
        return "unknown"

    def watch(self) -> None:
        """Refreshes once a second, for ever."""
        try:
            while True:
                time.sleep(CHECK_S)
                self.refresh()
        except BaseException:
            # A SuperLink that no longer sees who is revoked must not go on.
            log.exception("the roster cannot be watched")
            os._exit(1)

    def _create(self, key: bytes, site: str) -> None:
        self.state.create_node(OWNER, OWNER, key, 0.0, name=site)

    def _delete(self, key: bytes) -> None:
        node_id = self.state.get_node_id_by_public_key(key)
        if node_id is not None:
            self.state.delete_node(self.state.nodes[node_id].owner_aid, node_id)
        # Flower never takes a deleted key again: a site that is admitted anew would stay outside.
        self.state.node_public_key_to_node_id.pop(key, None)

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def guard(folder: Path, app: Any) -> None:
    """Makes a SuperLink's web application serve the members of a federation only.

    Args:
        folder: the coordinator's identity.
        app: FastAPI's, before it serves.
    """
    from fastapi import HTTPException
    from flwr.superlink.servicer.fleet import fleet_handlers

    members = Members(folder, app.state.linkstate_factory.state())
    activate = fleet_handlers.activate_node

    def activate_node(request: Any, state: Any) -> Any:
        members.renew(request.public_key)
        return activate(request=request, state=state)

    def omnifed_standing(name: str) -> dict[str, str]:
        found = members.standing(name)
        if found is None:
            raise HTTPException(503, "The federation's roster has expired.")
        return {"standing": found}

    fleet_handlers.activate_node = activate_node
    app.add_api_route(STANDING + "{name}", omnifed_standing, methods=["GET"])
    threading.Thread(target=members.watch, name="roster", daemon=True).start()


def _valid_keys(roster: Roster, now: datetime) -> dict[bytes, str]:
    """Site by public key, PEM, as Flower compares them."""
    if now >= roster.expires:
        return {}
    return {
        _pem(term.node): member.site
        for member in roster.members
        if roster.standing(member.site, now) == "member"
        for term in member.terms
        if term.valid(now)
    }


def _pem(node: str) -> bytes:
    return load_ssh_public_key(node.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
