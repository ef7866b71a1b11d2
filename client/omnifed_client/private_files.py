"""What a site keeps of private rounds: sealed secrets, its update as it will be masked, and what is over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from omnifed.config import Frozen
from omnifed.files import write_atomic, write_json
from omnifed.privacy.secagg.records import Held
from omnifed.states import SEALED
from omnifed.trust import vault
from omnifed_client.store import SiteStore

_PURPOSE = "secure aggregation"


class Kept(Frozen):
    """A session on disk.

    Attributes:
        task: digest of the fit that it began with, but for its id and attempt.
        held: the secrets.
    """

    task: str
    held: Held


class PrivateFiles:
    """The files of one arm's private rounds.

    Args:
        store: of the campaign; its vault key seals the secrets.
        arm: whose rounds.
    """

    def __init__(self, store: SiteStore, arm: str) -> None:
        self.store, self.folder = store, store.own / "arms" / arm / "private"

    def load(self, round_: int) -> Kept | None:
        """The session of a round; None if it was never begun, or is over.

        Raises:
            OmniFedError: OF875 if its file is damaged: the site sits the round out, as second secrets for a session
                that may have been used are what an attacker wants.
        """
        path = self._session(round_)
        if not path.is_file():
            return None
        return Kept.model_validate_json(vault.open(self.store.vault, _PURPOSE, path.read_bytes()))

    def save(self, round_: int, kept: Kept) -> None:
        """Keeps a session: before its answer leaves."""
        data = vault.seal(self.store.vault, _PURPOSE, kept.model_dump_json().encode())
        write_atomic(self._session(round_), data, mode=0o600)

    def load_vector(self, round_: int, task: str) -> np.ndarray | None:
        """The update, (n,) uint32, that the fit with that digest left; None if it is not there."""
        path = self._vector(round_)
        if not path.is_file():
            return None
        state, meta = self.store.file(path).read()
        return state["vector"] if meta["task"] == task else None

    def save_vector(self, round_: int, task: str, vector: np.ndarray) -> None:
        """Keeps the update as it will be masked."""
        self.store.file(self._vector(round_)).write({"vector": vector}, {"task": task})

    @property
    def revealed(self) -> int:
        """The last round whose shares this site revealed; -1 before any."""
        path = self.folder / "revealed.json"
        return int(json.loads(path.read_bytes())["round"]) if path.is_file() else -1

    def close(self, round_: int) -> None:
        """No attempt of this round or one before will be answered any more."""
        write_json(self.folder / "revealed.json", {"round": max(round_, self.revealed)}, mode=0o600)

    def forget(self, before: int) -> None:
        """Deletes sessions and updates of the rounds before ``before``."""
        for path in self.folder.glob("*-*"):
            if path.stem.rpartition("-")[2].isdigit() and int(path.stem.rpartition("-")[2]) < before:
                path.unlink(missing_ok=True)

    def _session(self, round_: int) -> Path:
        return self.folder / f"session-{round_:04d}{SEALED}"

    def _vector(self, round_: int) -> Path:
        return self.folder / f"update-{round_:04d}{SEALED}"
