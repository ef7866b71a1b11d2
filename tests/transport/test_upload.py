from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnifed.transport.upload import TRIES, Upload, repeatable


class RefusedError(Exception):
    pass


class Link:
    """A SuperLink's rules: an object counts once, in the session that announced it last. ``lose`` loses answers."""

    def __init__(self, *objects: str, lose: tuple[str, ...] = (), taken: bool = False) -> None:
        self.objects, self.stored, self.sessions, self.lose = set(objects), {}, 0, set(lose)
        self.taken = taken
        self.lock = threading.Lock()

    def send(self, message: str) -> tuple[set[str], str]:
        with self.lock:
            if self.taken and self.sessions:  # the coordinator has the head of the reply, and waits for the rest
                return set(), "unknown"
            self.sessions += 1
            return self.objects - self.stored.keys(), f"s{self.sessions}"

    def push(self, run_id: int, session: str, name: str, content: bytes) -> None:
        with self.lock:
            if session != f"s{self.sessions}" or name in self.stored:
                raise RefusedError
            self.stored[name] = content
            if name in self.lose:  # the request is repeated, as its answer did not come
                self.lose.discard(name)
                raise RefusedError


def test_an_object_that_arrived_without_an_answer_counts():
    link = Link("a", "b", lose=("a",))
    upload = Upload(link.send, link.push, RefusedError)
    missing, session = upload.send("reply")
    assert (missing, session) == ({"a", "b"}, "s1")
    for name in sorted(missing):
        upload.push_object(1, session, name, name.encode())
    assert link.stored == {"a": b"a", "b": b"b"}
    assert link.sessions == 2


@pytest.mark.parametrize("taken", [False, True])
def test_objects_side_by_side_survive_lost_answers(taken):
    names = [f"o{number}" for number in range(40)]
    link = Link(*names, lose=tuple(names[::4]), taken=taken)
    upload = Upload(link.send, link.push, RefusedError)
    _, session = upload.send("reply")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: upload.push_object(1, session, name, name.encode()), names))
    assert link.stored.keys() == set(names)


def test_a_link_that_takes_nothing_is_told_as_before():
    tried = []

    def push(*about):
        tried.append(about)
        raise RefusedError

    upload = Upload(lambda message: ({"a"}, "s"), push, RefusedError)
    upload.send("reply")
    with pytest.raises(RefusedError):
        upload.push_object(1, "s", "a", b"")
    assert len(tried) == TRIES


def test_a_run_that_has_ended_is_no_reason_to_ask_again():
    def push(*about):
        raise KeyError("not running")

    link = Link("a")
    upload = Upload(link.send, push, RefusedError)
    upload.send("reply")
    with pytest.raises(KeyError):
        upload.push_object(1, "s1", "a", b"")
    assert link.sessions == 1


def test_flowers_loop_announces_and_pushes_as_we_repeat_it():
    import inspect

    from flwr.supernode import start_client_internal as node

    source = inspect.getsource(node._push_messages)
    assert "send(message, object_tree, clientapp_runtime)" in source
    assert "partial(push_object, run_id, session_id)" in source
    seen = []
    link = Link("a")
    pushed = repeatable(lambda *, state, send, push_object: seen.append((state, send("m"))))
    pushed(state=1, send=link.send, push_object=link.push)
    assert seen == [(1, ({"a"}, "s1"))]


def test_a_reply_whose_rest_does_not_come_is_given_up(monkeypatch):
    import inspect

    from omnifed.transport import flower_compat  # isort: skip (before Flower: it switches the telemetry off)
    from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
    from flwr.superlink.grid import http_grid

    assert "pull_objects(" in inspect.getsource(http_grid.HttpGrid.pull_messages)
    monkeypatch.setattr(http_grid, "pull_objects", None)
    monkeypatch.setattr(flower_compat, "UPLOAD_S", 0.0)
    flower_compat.bound_pulls()

    def never(object_id):
        raise ObjectUnavailableError(object_id)

    with pytest.raises(ObjectPullError):
        http_grid.pull_objects(object_ids=["a"], pull_object_fn=never)
