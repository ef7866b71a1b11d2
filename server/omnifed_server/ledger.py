"""What an arm keeps on disk, so that a coordinator killed at any point goes on in the same round.

``arm.json`` is the configuration; ``start.safetensors`` the first weights; ``replies/round-0003/SITE.safetensors`` one
accepted reply, head and arrays in one file; ``round-0003.safetensors`` the global state after a round and
``round-0003.json`` its record; ``held-0003.safetensors`` what the sites held in a round, where they get changes to it
alone. The record is written last: a round is finished if and only if it is there.

In a private round ``replies/round-0003/attempt-0/masked/SITE.safetensors`` is one answer of an exchange, and
``attempt-0/masked.json`` says, once nobody is waited for any more, whose answers count.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.federation.replies import REPLY, FitReply, Reply
from omnifed.files import write_json
from omnifed.states import State, read_state, write_state
from omnifed_server.arm import ArmConfig

KEPT_STATES = 2
log = logging.getLogger("omnifed.server")


class Ledger:
    """The files of one arm.

    Args:
        folder: of the arm.
        config: must equal the one that the folder began with.

    Raises:
        OmniFedError: OF518 if the folder belongs to another configuration.
    """

    def __init__(self, folder: Path, config: ArmConfig) -> None:
        self.folder = folder
        path = folder / "arm.json"
        values = config.model_dump(mode="json")
        if not path.is_file():
            write_json(path, values)
        elif json.loads(path.read_bytes()) != values:
            old = json.loads(path.read_bytes())
            changed = ", ".join(sorted(key for key in values.keys() | old.keys() if values.get(key) != old.get(key)))
            raise OmniFedError(
                "OF518",
                "An arm goes on with the configuration that it began with.",
                seen=f"{path} differs in: {changed}",
                remedy="Resume with the first configuration, or choose a new run folder.",
            )
        for path in folder.rglob(".*.part"):  # what a killed coordinator had begun to write
            path.unlink(missing_ok=True)
        self.records = [json.loads(path.read_bytes()) for path in sorted(folder.glob("round-*.json"))]
        while config.aggregate and self.records and not self.state_path(len(self.records) - 1).is_file():
            # A damaged state was deleted, as OF104 says: its round is repeated, from the sites' kept replies.
            last = self.records.pop()["round"]
            log.warning("round %d has lost its state and is repeated", last)
            (folder / f"round-{last:04d}.json").unlink()
        self._clean()

    def state_path(self, round_: int) -> Path:
        """Global state after ``round_``; -1 is the start."""
        return self.folder / ("start.safetensors" if round_ < 0 else f"round-{round_:04d}.safetensors")

    def starter_path(self, round_: int) -> Path:
        """The whole student for a site that joins after ``round_``."""
        return self.folder / f"starter-{round_:04d}.safetensors"

    def load(self, round_: int) -> State:
        """Global state after ``round_``."""
        return read_state(self.state_path(round_))[0]

    def save(self, round_: int, state: State) -> None:
        """Keeps the global state after ``round_``."""
        write_state(self.state_path(round_), state, {"round": round_})

    def held_path(self, round_: int) -> Path:
        """What the sites hold in ``round_``."""
        return self.folder / f"held-{round_:04d}.safetensors"

    def load_held(self, round_: int) -> State | None:
        """What the sites hold in ``round_``; None if that is not there."""
        return read_state(self.held_path(round_))[0] if self.held_path(round_).is_file() else None

    def save_held(self, round_: int, state: State) -> None:
        """Keeps what the sites will hold in ``round_``: before they get it, as the next change refers to it."""
        write_state(self.held_path(round_), state, {"round": round_})

    def save_starter(self, round_: int, state: State) -> None:
        """Keeps the whole student after ``round_``."""
        write_state(self.starter_path(round_), state, {"round": round_})

    def finish(self, record: dict[str, Any]) -> None:
        """Writes a round's record, which makes it finished, and removes what is no longer needed."""
        write_json(self.folder / f"round-{record['round']:04d}.json", record)
        self.records.append(record)
        self._clean()

    def keep(self, round_: int, reply: FitReply, state: State, costs: dict[str, Any]) -> None:
        """Keeps one accepted reply."""
        head = {"reply": reply.model_dump(mode="json"), "costs": costs}
        write_state(self._reply(round_, reply.site), state, head)

    def reply(self, round_: int, site: str) -> tuple[FitReply, State, dict[str, Any]] | None:
        """A kept reply with its arrays and costs; None if there is none that can be read."""
        path = self._reply(round_, site)
        if not path.is_file():
            return None
        found = _read(path)
        return (found[0], found[1], found[2]) if found and isinstance(found[0], FitReply) else None

    # Private rounds ---------------------------------------------------------------------------------------------

    def attempt(self, round_: int) -> int:
        """The attempt of a round that is not given up, from 0."""
        attempt = 0
        while (self._attempt(round_, attempt) / "given-up.json").is_file():
            attempt += 1
        return attempt

    def give_up(self, round_: int, attempt: int) -> None:
        """An attempt is over; what it left is never used again."""
        write_json(self._attempt(round_, attempt) / "given-up.json", {})

    def keep_answer(self, round_: int, attempt: int, reply: Reply, state: State, costs: dict[str, Any]) -> None:
        """Keeps one accepted answer of an exchange."""
        head = {"reply": reply.model_dump(mode="json"), "costs": costs}
        write_state(self._attempt(round_, attempt) / reply.kind / f"{reply.site}.safetensors", state, head)

    def answer(self, round_: int, attempt: int, kind: str, site: str) -> tuple[Reply, State, dict[str, Any]] | None:
        """A kept answer with its arrays and costs; None if there is none that can be read."""
        path = self._attempt(round_, attempt) / kind / f"{site}.safetensors"
        return _read(path) if path.is_file() else None

    def close(self, round_: int, attempt: int, kind: str, sites: list[str]) -> None:
        """Settles whose answers to an exchange count: what comes later is too late, also after a crash."""
        write_json(self._attempt(round_, attempt) / f"{kind}.json", sites)

    def closed(self, round_: int, attempt: int, kind: str) -> list[str] | None:
        """The sites that :meth:`close` settled; None while the exchange goes on."""
        path = self._attempt(round_, attempt) / f"{kind}.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    def _attempt(self, round_: int, attempt: int) -> Path:
        return self._reply(round_, "").parent / f"attempt-{attempt}"

    def _reply(self, round_: int, site: str) -> Path:
        return self.folder / "replies" / f"round-{round_:04d}" / f"{site}.safetensors"

    def _clean(self) -> None:
        """Removes replies of finished rounds and all but the last states; safe to repeat after a crash."""
        done = len(self.records)
        for round_ in range(done):
            shutil.rmtree(self._reply(round_, "").parent, ignore_errors=True)
            if round_ < done - KEPT_STATES:
                self.state_path(round_).unlink(missing_ok=True)
                self.held_path(round_).unlink(missing_ok=True)
            if round_ < done - 1:
                self.starter_path(round_).unlink(missing_ok=True)


def _read(path: Path) -> tuple[Reply, State, dict[str, Any]] | None:
    try:
        state, head = read_state(path)
        return REPLY.validate_python(head["reply"]), state, head["costs"]
    except (OmniFedError, KeyError, ValueError):
        return None
