"""A site that misbehaves: Flower's own node, a small SuperExec, and an application that answers as it should not.

``python hostile.py node ...`` is a SuperNode that pushes each reply twice; ``app`` is the application. Each
round has its own misdeed; what is not a fit is answered well, or the site would not be asked to train.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.federation.replies import FitReply, HelloReply
from omnifed.federation.tasks import FitTask, HelloTask, Task
from omnifed.processes import flower, flower_env, free_port
from omnifed.states import State
from omnifed.transport.flower_compat import ArrayRecord, ClientApp, ConfigRecord, Context, Message, RecordDict
from omnifed.transport.records import HEAD, STATE, pack, task_of

DEEDS = "OMNIFED_TEST_DEEDS"
"""Environment variable: the misdeeds, one a round, with commas between."""
CODES = {
    "good": "",
    "nan": "OF505",
    "nan-figure": "OF505",
    "shape": "OF507",
    "missing": "OF507",
    "more": "OF507",
    "old": "OF504",
    "kind": "OF504",
    "impostor": "OF504",
    "garbage": "OF503",
    "bytes": "OF503",
    "empty": "OF503",
    "huge": "OF503",
    "count": "OF503",
    "late": "OF502",
}
"""What the coordinator must say of each misdeed."""
app = ClientApp()


class Hostile:
    """The processes of such a site; a context manager.

    Args:
        folder: for logs and Flower's state.
        server: HOST:PORT.
        site: the name that it gives itself.
        deeds: one a round.
        env: of the federation of the tests.
    """

    def __init__(self, folder: Path, server: str, site: str, deeds: list[str], env: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.processes = folder, []
        secret = folder / "secret"
        secret.write_bytes(secrets.token_bytes(32))
        port = str(free_port())
        path = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
        self.env = env | flower_env(folder / "flower") | {DEEDS: ",".join(deeds), "PYTHONPATH": path}
        shared = ["--superexec-auth-secret-file", str(secret)]
        node = [sys.executable, __file__, "--superlink", server, "--host", "127.0.0.1", "--port", port, "--insecure"]
        self._start("node", [*node, "--node-config", f'site="{site}"', "--isolation", "process", *shared])
        execute = flower("superexec", "--runtime-api-address", f"127.0.0.1:{port}", "--app", "hostile:app", *shared)
        self._start("exec", execute)

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *about: object) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait(10)


def answer(message: Message, context: Context) -> Message:
    """The reply to any task."""
    site = str(context.node_config["site"])
    task, state = task_of(message.content)
    if not isinstance(task, FitTask):
        return Message(record(*well(task, site, state)), reply_to=message)
    deeds = os.environ[DEEDS].split(",")
    return Message(misbehave(deeds[task.round], task, site, state), reply_to=message)


for route in ("query.hello", "query.export"):
    app.query(route.partition(".")[2])(answer)
for route in ("teach", "fit"):
    app.train(route)(answer)
app.evaluate("score")(answer)


def well(task: Task, site: str, state: State) -> tuple[dict[str, Any], State]:
    """What an honest site would say, more or less."""
    if isinstance(task, HelloTask):
        reply: HelloReply | FitReply = HelloReply(
            id=task.id, site=site, version="0", channels=1, classes=2, labels=("background", "square"), modality="mri",
            image_size=(32, 32), train=4, val=2, test=2, instance=secrets.token_hex(8),
        )  # fmt: skip
        return reply.model_dump(), {}
    reply = FitReply(id=task.id, site=site, n=4, steps=2, loss={"supervised": 1.0}, dice=0.5, adopted=True)
    return reply.model_dump(), {key: value + value.dtype.type(1) for key, value in state.items()}


def record(body: dict[str, Any], state: State) -> RecordDict:
    """A record without the checks of an honest sender."""
    packed = pack(state)
    return RecordDict({HEAD: ConfigRecord({"body": json.dumps(body), "layout": packed.layout}), STATE: packed.arrays})


def misbehave(deed: str, task: FitTask, site: str, state: State) -> RecordDict:
    """The reply to a fit."""
    body, good = well(task, site, state)
    key = next(key for key, value in good.items() if value.ndim > 1)
    if deed == "nan":
        good[key] = good[key] * np.float32(math.nan)
    if deed == "shape":
        good[key] = good[key].reshape(-1)
    if deed == "missing":
        del good[key]
    if deed == "more":
        good["another"] = np.ones(1_000_000, np.float32)
    if deed == "nan-figure":
        body["dice"] = math.nan
    if deed == "count":
        body["n"] = 10**400
    if deed == "old":
        body["id"] = task.id.replace(f".r{task.round}.", f".r{task.round - 1}.")
    if deed == "kind":
        body = {"kind": "evaluate", "id": task.id, "site": site, "n": 1, "scores": []}
    if deed == "impostor":
        body["site"] = "north"
    if deed == "garbage":
        return RecordDict({HEAD: ConfigRecord({"body": secrets.token_hex(500), "layout": "[]"}), STATE: ArrayRecord()})
    if deed == "bytes":
        return RecordDict({HEAD: ConfigRecord({"body": secrets.token_bytes(5000), "layout": [1, 2]})})
    if deed == "empty":
        return RecordDict()
    sent = record(body, good)
    if deed == "huge":
        sent[HEAD]["layout"] = json.dumps([[key, "float32", [10**9, 10**9]]])
    if deed == "late":
        time.sleep(float(os.environ["OMNIFED_TEST_LATE_S"]))
    return sent


def node() -> None:
    """A SuperNode that pushes each reply twice, the second time as another message."""
    from flwr.supernode.fleet_http_client import FleetHttpClient

    from omnifed.transport.flower_programs import main

    once = FleetHttpClient.PushMessages

    def twice(self: Any, request: Any) -> Any:
        result = once(self, request)
        other = type(request).FromString(request.SerializeToString())
        other.messages_list[0].metadata.message_id = secrets.token_hex(32)
        again = once(self, other)
        print(f"pushed twice: {len(result.objects_to_push)} objects wanted, then {len(again.objects_to_push)}")
        return result

    FleetHttpClient.PushMessages = twice
    sys.argv.insert(1, "supernode")
    main()


if __name__ == "__main__":
    node()
