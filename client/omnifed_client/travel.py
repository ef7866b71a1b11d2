"""The site's end of the wire: what a task brings, and what its reply takes along."""

from __future__ import annotations

from omnifed.federation.tasks import FitTask
from omnifed.federation.wire import Sent, decode, encode, no_base
from omnifed.states import State
from omnifed_client.store import SiteStore


def arrived(task: FitTask, state: State, store: SiteStore) -> State:
    """The weights that a task brings, as the coordinator knows that this site now holds them.

    Args:
        task: says how they are coded.
        state: what travelled.
        store: where a change finds what it refers to, and where its outcome goes for the next one.

    Raises:
        OmniFedError: OF524 if the site does not hold what a change refers to, OF523 or OF505 for bad arrays.
    """
    if task.wire != "int8-delta":
        return decode(state, task.wire)
    held = state if task.base is None else decode(state, "int8-delta", base=_base(task, store))
    # On disk before the reply is sent: the coordinator takes the reply as a proof of it.
    store.save_held(task.arm, task.round, held)
    return held


def leaving(task: FitTask, upload: State, held: State, lost: State) -> Sent:
    """What a reply takes along.

    Args:
        task: says how it is coded.
        upload: the part of the site's weights that leaves.
        held: result of :func:`arrived`.
        lost: what rounding took from the last upload; it goes with this one.

    Raises:
        OmniFedError: OF505 if a weight is not finite.
    """
    return encode(upload, task.wire, base=held, lost=lost)


def _base(task: FitTask, store: SiteStore) -> State | None:
    if task.base == -1:
        return None  # before the first round every site holds zeros
    held = store.load_held(task.arm, task.base or 0)
    if held is None:
        raise no_base(f"round {task.base} of arm {task.arm} is not in the state folder")
    return held
