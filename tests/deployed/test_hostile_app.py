"""A coordinator that ships an application of its own through Flower's Control API: nothing of it runs at a site."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from harness import Federation, wait
from twin import difference, twin

from omnifed.processes import flower_env

SEEN_S = 5.0
"""Seconds within which the coordinator must know why."""
PYPROJECT = """[project]
name = "{name}"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "omnifed"

[tool.flwr.app.components]
serverapp = "{server}:app"
clientapp = "{client}"
"""
MARK = """
import os
from pathlib import Path
Path({marks!r}, f"{name}-{{os.getpid()}}").touch()
"""
CLIENT = """
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context):
{mark}
@app.train()
def train(message, context):
{mark}
"""
SERVER = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from omnifed.transport.records import reply_of
app = ServerApp()
@app.main()
def main(grid, context):
    (node,) = grid.get_node_ids()
    answers, started = {{}}, time.monotonic()
    for kind in ("query", "query.hello", "train.fit"):
        content = RecordDict({{"config": ConfigRecord({{"path": "/etc/passwd"}})}})
        (asked,) = grid.push_messages([Message(content, node, kind, ttl=60.0)])
        asked_at = time.monotonic()
        while kind not in answers and time.monotonic() - asked_at < 30:
            for message in grid.pull_messages([asked]):
                reply = reply_of(message.content)[0] if message.has_content() else message.error
                answers[kind] = [getattr(reply, "code", 0), getattr(reply, "site", ""), time.monotonic() - asked_at]
            time.sleep(0.05)
    part = Path({out!r} + ".part")
    part.write_text(json.dumps(answers))
    part.replace({out!r})
"""


def ship(federation: Federation, folder: Path, name: str, client: str, marks: Path) -> Path:
    """Hands an application to the federation's SuperLink as anybody on its machine could; where its server writes."""
    app, out = folder / name, folder / f"{name}.json"
    app.mkdir(parents=True)
    server = f"server_{name.replace('-', '_')}"
    (app / "pyproject.toml").write_text(PYPROJECT.format(name=name, server=server, client=client))
    (app / f"{server}.py").write_text(SERVER.format(out=str(out)))
    mark = MARK.format(marks=str(marks), name="run").replace("\n", "\n    ")
    (app / "stranger.py").write_text(MARK.format(marks=str(marks), name="import") + CLIENT.format(mark=mark))
    # What a Python imports by itself, and what is imported here: in front of the path they would run.
    for shadow in ("sitecustomize.py", "usercustomize.py", "numpy/__init__.py", "omnifed_client/app.py"):
        (app / shadow).parent.mkdir(exist_ok=True)
        (app / shadow).write_text(MARK.format(marks=str(marks), name="shadow"))
    env = os.environ | flower_env(federation.run / "flower")
    command = ["flwr", "run", str(app), "coordinator", "--format", "json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    wait(out.is_file, 90, f"the end of {name}")
    return out


def test_nothing_of_another_application_runs_and_its_coordinator_is_told_so(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    stages = ["prepare", "train"]
    with Federation(tmp_path / "f", ("north", "east"), identity=True, rounds=1, stages=stages) as federation:
        federation.tell_counts()
        federation.start_server()
        federation.start_client("north")
        joined = federation.wait_event(lambda e: e["event"] == "site" and e["state"] == "joined")
        assert joined["site"] == "north"
        # One that brings its own code, and one that names the installed ClientApp but is not the installed application.
        for name, client in (("stranger", "stranger:app"), ("near-miss", "omnifed_client.app:app")):
            answers = json.loads(ship(federation, tmp_path, name, client, marks).read_text())
            assert {kind: answer[:2] for kind, answer in answers.items()} == {
                kind: ["OF814", "north"] for kind in ("query", "query.hello", "train.fit")
            }
            print(name, {kind: round(answer[2], 2) for kind, answer in answers.items()})
            assert max(answer[2] for answer in answers.values()) < SEEN_S
        assert sorted(marks.iterdir()) == []
        assert not list(federation.state("north").rglob("stranger*"))
        assert [e for e in federation.site_events("north") if e.get("kind") in ("fit", "teach")] == []

        federation.start_client("east")
        assert federation.finish(200) == 0, "the site goes on to serve its own coordinator"
        assert federation.left_behind() == []
        federation.check_counts()
        assert difference(federation.final(), twin(federation)) == []
