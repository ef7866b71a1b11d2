"""A state in one file, in clear or sealed: what opens it, and what is taken over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omnifed.errors import OmniFedError
from omnifed.states import StateFile, read_state, site_file, write_state

KEY = bytes(range(32))
STATE = {"w": np.arange(64, dtype=np.float32)}


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_written_is_read(tmp_path: Path, key: bytes | None) -> None:
    file = StateFile(tmp_path / "a" / "s", key, "x")
    file.write(STATE, {"round": 3})
    state, meta = file.read()
    assert meta == {"round": 3}
    assert state["w"].tobytes() == STATE["w"].tobytes()
    assert (STATE["w"].tobytes() in file.path.read_bytes()) == (key is None)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["s"]


def test_an_empty_key_never_means_in_clear(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF875"):
        StateFile(tmp_path / "s", b"", "x").write(STATE, {})
    assert not list(tmp_path.iterdir())


def test_a_sites_file_opens_with_its_key_in_its_place_alone(tmp_path: Path) -> None:
    file = site_file(tmp_path, tmp_path / "arms" / "a" / "s", KEY)
    file.write(STATE, {})
    moved = site_file(tmp_path, tmp_path / "arms" / "b" / "s", KEY)
    moved.path.parent.mkdir()
    moved.path.write_bytes(file.path.read_bytes())
    for other in (moved, replace(file, key=bytes(32)), replace(file, purpose="site state")):
        with pytest.raises(OmniFedError, match="OF875") as caught:
            other.read()
        assert str(other.path) in caught.value.seen
        assert str(tmp_path) not in caught.value.public


def test_a_state_folder_may_move_as_a_whole(tmp_path: Path) -> None:
    site_file(tmp_path / "one", tmp_path / "one" / "arms" / "s", KEY).write(STATE, {"round": 3})
    (tmp_path / "one").rename(tmp_path / "two")
    assert site_file(tmp_path / "two", tmp_path / "two" / "arms" / "s", KEY).read()[1] == {"round": 3}


def test_what_is_taken_over_is_the_same_and_no_longer_lies_in_clear(tmp_path: Path) -> None:
    clear, file = tmp_path / "s.safetensors", StateFile(tmp_path / "s.sealed", KEY, "x")
    write_state(clear, STATE, {"round": 3})
    expected = read_state(clear)
    file.take_over(clear)
    state, meta = file.read()
    assert (meta, state["w"].tobytes()) == (expected[1], STATE["w"].tobytes())
    assert [path.name for path in tmp_path.iterdir()] == ["s.sealed"]


def test_a_sealed_file_is_never_replaced_by_one_in_clear(tmp_path: Path) -> None:
    clear, file = tmp_path / "s.safetensors", StateFile(tmp_path / "s.sealed", KEY, "x")
    file.write(STATE, {"round": 4})
    write_state(clear, STATE, {"round": 3})
    file.take_over(clear)
    assert file.read()[1] == {"round": 4}
    assert not clear.exists()


def test_without_a_key_or_a_readable_file_all_stays_as_it_is(tmp_path: Path) -> None:
    clear = tmp_path / "s.safetensors"
    write_state(clear, STATE, {})
    with pytest.raises(OmniFedError, match="OF875"):
        StateFile(tmp_path / "s.sealed", b"", "x").take_over(clear)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]
    with pytest.raises(OmniFedError, match="OF104"):
        StateFile(tmp_path / "s.sealed", KEY, "x").take_over(tmp_path / "absent")
