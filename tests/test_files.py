"""State on disk is whole or absent, never half."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic, write_json
from omnifed.states import add_prefix, read_state, strip_prefix, write_state


def test_a_state_comes_back_bit_for_bit_and_private(tmp_path: Path) -> None:
    state = {"a/b": np.float32([[1.5, -2]]), "n": np.array(7, np.int64)}
    write_state(tmp_path / "x" / "s.safetensors", state, {"round": 3, "names": ["ä"]})
    back, meta = read_state(tmp_path / "x" / "s.safetensors")
    assert meta == {"round": 3, "names": ["ä"]}
    assert back["n"].shape == ()
    assert all(np.array_equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)
    assert stat.S_IMODE((tmp_path / "x" / "s.safetensors").stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["s.safetensors"]


@pytest.mark.parametrize("cut", [0, 5, 40, -1])
def test_a_cut_off_or_foreign_state_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s.safetensors"
    write_state(path, {"a": np.zeros(4, np.float32)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(OmniFedError) as caught:
        read_state(path)
    assert caught.value.code == "OF104"


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OmniFedError, match="No space left") as caught:
        write_json(path, {"new": 2})
    assert caught.value.code == "OF103"
    assert path.read_text() == '{\n "old": 1\n}'
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))


def test_bytes_replace_a_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"one")
    write_atomic(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"


def test_prefixes_come_off_again() -> None:
    state = {"a": np.zeros(1)}
    assert strip_prefix("model", add_prefix("model", state) | add_prefix("models", state)).keys() == {"a"}
