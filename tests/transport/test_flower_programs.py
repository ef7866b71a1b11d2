"""What our programs take for granted of Flower's insides. A Flower that changes its launch fails here first."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import until

from omnifed.federation.replies import FailedReply
from omnifed.processes import flower, flower_env
from omnifed.transport import flower_programs
from omnifed.transport.flower_compat import Message, RecordDict, identify, set_message_id
from omnifed.transport.flower_programs import IDLE_S, ForkExecutor, _NodeStatus, _QuickTime
from omnifed.transport.installed import APP, REFUSED, installed_hash, refuse
from omnifed.transport.records import reply_of

HASH = "64752067ee40bd8fdfb1b50e2f988bbb38a2793814145b7b49ee11298561dbe7"
"""Sites of every release so far know the application by it: another one shuts them out."""


def spec(fab_hash: str | None = HASH) -> SimpleNamespace:
    return SimpleNamespace(runtime_api_address="h:1", token="t", insecure=True, fab_hash=fab_hash)


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_executor_has_what_flowers_protocol_asks() -> None:
    from flwr.supercore.superexec.executor import Executor

    methods = {name for name, value in vars(Executor).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert methods == {"get_eligible_capacity", "wait_for_capacity", "launch", "reconcile", "close"}
    for name in ("get_eligible_capacity", "launch", "reconcile", "close"):
        assert parameters(getattr(ForkExecutor, name)) == parameters(getattr(Executor, name)), name


def test_the_superexec_asks_for_its_executor_where_we_replace_it() -> None:
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec import run_superexec

    assert "get_executor(" in inspect.getsource(run_superexec.run_superexec)
    assert {"runtime_api_address", "insecure", "superexec_auth_secret"} <= set(parameters(run_superexec.run_superexec))
    executor = ForkExecutor(HASH, never, never)
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())


def test_a_client_app_is_loaded_where_we_replace_it() -> None:
    from flwr.supernode.runtime import run_clientapp as module

    source = inspect.getsource(module.run_clientapp)
    assert "install_from_fab(fab.content, skip_prompt=True)" in source
    assert "get_load_client_app_fn(" in source
    assert parameters(module.run_clientapp)[:3] == ["runtime_api_address", "token", "insecure"]


def test_an_execution_says_what_a_fork_needs() -> None:
    from flwr.supercore.superexec.executor import ExecutionSpec

    assert {"runtime_api_address", "token", "insecure", "fab_hash"} <= set(parameters(ExecutionSpec))


def test_the_node_sleeps_and_pushes_where_we_watch_it() -> None:
    from flwr.supernode import start_client_internal as node
    from flwr.supernode.fleet_http_client import FleetHttpClient

    assert parameters(node._push_messages) == ["state", "object_store", "send", "push_object"]
    assert "time.sleep(3)" in inspect.getsource(node.start_client_internal)
    assert callable(FleetHttpClient.PullMessages)
    assert callable(FleetHttpClient.SendNodeHeartbeat)


def test_flowers_commands_have_the_options_that_we_give() -> None:
    from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    node = {option for action in _parse_args_run_supernode()._actions for option in action.option_strings}
    assert {"--superlink", "--host", "--port", "--node-config", "--insecure", "--root-certificates"} <= node
    assert {"--isolation", "--superexec-auth-secret-file", "--auth-supernode-private-key"} <= node
    link = {option for action in _parse_args_run_superlink()._actions for option in action.option_strings}
    assert {"--host", "--port", "--insecure", "--disable-runtime-dependency-installation"} <= link
    assert {"--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile", "--enable-supernode-auth"} <= link


def test_a_superlink_takes_our_routes_and_nodes_where_we_give_them() -> None:
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
    from flwr.superlink import main
    from flwr.superlink.routers.fleet import node_auth, router
    from flwr.superlink.servicer.fleet import fleet_handlers

    assert "extensions.configure_app(fastapi_app)" in inspect.getsource(main.create_app)
    assert "fleet_handlers.activate_node(request=request, state=state)" in inspect.getsource(router.fleet_activate_node)
    assert parameters(fleet_handlers.activate_node) == ["request", "state"]
    assert "get_node_id_by_public_key(public_key) != node_id" in inspect.getsource(node_auth.authenticate_node)
    assert "node_public_key_to_node_id" in inspect.getsource(InMemoryLinkState.get_node_id_by_public_key)
    assert parameters(InMemoryLinkState.delete_node) == ["self", "owner_aid", "node_id"]


def test_sleeps_are_brief_after_a_message_and_never_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    now = [50.0]
    monkeypatch.setattr(flower_programs.time, "sleep", slept.append)
    monkeypatch.setattr(flower_programs.time, "monotonic", lambda: now[0])
    quick = _QuickTime()
    quick.sleep(3)
    quick.sleep(0.5)
    assert slept == [IDLE_S, 0.5]
    quick.around(lambda **stores: quick.sleep(0.6))()
    quick.sleep(3)
    assert slept[2:] == [pytest.approx(0.1), 0.25]
    now[0] += 2.5
    quick.sleep(3)
    assert slept[4:] == [IDLE_S]
    monkeypatch.undo()
    assert quick.monotonic is time.monotonic


def test_a_launch_forks_works_and_is_reaped(tmp_path: Path) -> None:
    def work(address: str, token: str, *, insecure: bool) -> None:
        (tmp_path / "seen").write_text(json.dumps([address, token, insecure, os.getppid(), os.getpid()]))
        raise SystemExit(0)

    executor = ForkExecutor(HASH, work, never)
    assert executor.launch(spec()).status == "accepted"
    until(lambda: (executor.reconcile(), not executor.children)[1])
    address, token, insecure, parent, pid = json.loads((tmp_path / "seen").read_text())
    assert (address, token, insecure, parent) == ("h:1", "t", True, os.getpid())
    assert pid != os.getpid()


def test_a_fork_that_fails_ends_alone(capfd: pytest.CaptureFixture[str]) -> None:
    def work(*args: object, **kwargs: object) -> None:
        raise RuntimeError("/data/Müller")

    executor = ForkExecutor(HASH, work, never)
    executor.launch(spec())
    until(lambda: (executor.reconcile(), not executor.children)[1])
    assert capfd.readouterr().err == "clientapp: RuntimeError\n"


@pytest.mark.parametrize("fab_hash", ["0" * 64, HASH.upper(), "", None])
def test_another_application_is_refused_instead_of_run(fab_hash: str | None, tmp_path: Path) -> None:
    executor = ForkExecutor(HASH, never, lambda *args, **kwargs: (tmp_path / "refused").touch())
    assert executor.launch(spec(fab_hash)).status == "accepted", "Flower would offer it again and again"
    until(lambda: (executor.reconcile(), not executor.children)[1])
    assert (tmp_path / "refused").exists()


def test_flower_knows_the_installed_application_by_one_hash(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk

    assert installed_hash() == HASH
    (tmp_path / "pyproject.toml").write_text(APP)
    assert hashlib.sha256(build_fab_from_disk(tmp_path)).hexdigest() == HASH, "as `flwr run` builds it"


def test_a_refusal_is_a_reply_with_number_and_rule() -> None:
    identify()
    asked = Message(RecordDict(), 7, "query.hello")
    set_message_id(asked, "m")
    answer = refuse(asked, SimpleNamespace(node_config={"site": "north"}))
    reply = reply_of(answer.content)[0]
    assert isinstance(reply, FailedReply)
    assert (reply.site, (reply.code, reply.rule)) == ("north", REFUSED)
    assert answer.metadata.reply_to_message_id == "m"


def test_a_node_notes_contacts_and_what_it_delivered(tmp_path: Path) -> None:
    status = _NodeStatus(tmp_path / "node.json")
    assert status.watch(lambda x: x + 1)(1) == 2
    assert json.loads(status.path.read_text())["contact"] == pytest.approx(time.time(), abs=5)

    def push(*, state: list[str], object_store: object, send, push_object) -> None:
        for kind in state:
            try:
                send(SimpleNamespace(metadata=SimpleNamespace(message_type=kind)))
                push_object("x")
            except OSError:
                pass

    def broken(name: str) -> None:
        raise OSError

    counted = status.count(push)
    counted(state=["query.hello"], object_store=None, send=lambda m: None, push_object=lambda o: None)
    counted(state=["train.fit"], object_store=None, send=lambda m: None, push_object=lambda o: None)
    counted(state=["train.fit"], object_store=None, send=lambda m: None, push_object=broken)
    found = json.loads(status.path.read_text())
    assert (found["delivered"], found["lost"]) == (1, 1)


def test_a_note_never_ends_a_nodes_heartbeat(tmp_path: Path) -> None:
    # Work and heartbeat are two threads; Flower ends the heartbeat, and with it the site, at any exception.
    status = _NodeStatus(tmp_path / "node.json")
    calls = [status.watch(lambda x: x)] * 2000
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda call: call(1), calls)) == [1] * 2000
    assert json.loads(status.path.read_text())["contact"] == status.contact
    lost = _NodeStatus(tmp_path / "no such folder" / "node.json")  # stands for a full disk too
    assert lost.watch(lambda x: x)(1) == 1


def test_a_superexec_without_its_parent_ends_although_its_node_never_answers(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 32)
    options = ["--runtime-api-address", "127.0.0.1:9", "--superexec-auth-secret-file", str(secret)]
    command = [*flower("superexec", *options, "--app", "omnifed_client.app:app")]
    code = f"import subprocess, time; print(subprocess.Popen({command!r}).pid, flush=True); time.sleep(99)"
    env = os.environ | flower_env(tmp_path / "home") | {"OMNIFED_WORKER": "none"}
    with (tmp_path / "log").open("w") as log:
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log, text=True, env=env)
    assert parent.stdout
    pid = parent.stdout.readline().strip()
    until(lambda: "retrying" in (tmp_path / "log").read_text())
    parent.kill()
    parent.wait()
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_fork_ends_with_its_superexec_although_it_waits(tmp_path: Path) -> None:
    code = (
        "import os, time; from types import SimpleNamespace as N; from pathlib import Path\n"
        "from omnifed.transport.flower_programs import ForkExecutor\n"
        f"work = lambda *a, **k: (Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())), time.sleep(99))\n"
        "spec = N(runtime_api_address='h:1', token='t', insecure=True, fab_hash='h')\n"
        "ForkExecutor('h', work, work).launch(spec); time.sleep(99)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    until(lambda: not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
