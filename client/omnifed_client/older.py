"""What releases that did not encrypt left in a site's state folder."""

from __future__ import annotations

from pathlib import Path

from omnifed.files import locked
from omnifed.states import SEALED, read_state
from omnifed_client.store import SiteStore

_CLEAR = (".safetensors", ".ckpt")
_HALF = ".part"
"""What :func:`~omnifed.files.write_atomic` leaves of a file when its process is killed."""


def seal_older(store: SiteStore) -> None:
    """Seals states, replies and checkpoints that lie in clear, for all campaigns: finished work stays finished.

    Halves of such files, which a killed process left, are deleted.

    Args:
        store: of the site.

    Raises:
        OmniFedError: OF103 if the disk is full: what is not sealed yet then stays in clear. OF104 if a file cannot be
            read, or a reply is damaged.
    """
    if not _found(store.folder):
        return
    with locked(store.folder / "sealing.lock"):
        for clear in _found(store.folder):
            if clear.suffix == _HALF:
                clear.unlink()
            else:
                store.file(_place(clear)).take_over(clear)


def _found(folder: Path) -> list[Path]:
    states = (path for name in ("campaigns", "arms", "replies") for path in (folder / name).rglob("*"))
    # Weights of such a teacher are not here: they are deleted when the site is taught again.
    teachers = (path for name in ("fit.ckpt", ".fit.ckpt.*.part") for path in folder.glob(f"teachers/*/{name}"))
    return [*(path for path in states if _in_clear(path)), *teachers]


def _in_clear(path: Path) -> bool:
    whole = Path(path.stem).with_suffix("") if path.suffix == _HALF else path  # .NAME.RANDOM.part
    return whole.suffix in _CLEAR


def _place(clear: Path) -> Path:
    """Where its content is looked for now: replies to rounds bear their round in their name."""
    round_ = read_state(clear)[1].get("round", -1) if clear.parent.parent.name == "replies" else -1
    mark = f"-{round_:04d}" if round_ >= 0 else ""
    return clear.with_name(f"{clear.stem}{mark}{SEALED}")
