"""No file or message is ever read in a way that can run code: the syntax trees of all packages are searched.

``multiprocessing`` is forbidden but for ``connection``, whose ``recv_bytes`` and ``send_bytes`` carry bytes while its
``recv`` unpickles. Between our own processes travel JSON and safetensors; ``os.fork`` copies instead of pickling.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["omnifed", "server", "client", "sim", "benchmarks"]

MODULES = {
    "pickle", "cPickle", "_pickle", "pickletools", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle",
    "copyreg", "multiprocessing", "ray", "torch.package", "torch.multiprocessing", "concurrent.futures.process",
    "concurrent.futures.ProcessPoolExecutor", "xmlrpc", "code", "imp",
}  # fmt: skip
OPEN_MODULES = {"multiprocessing.connection"}
"""Parts of the above that may be imported."""
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.jit.load", "torch.hub.load",
    "torch.hub.load_state_dict_from_url", "torch.utils.model_zoo.load_url", "yaml.load", "yaml.load_all",
    "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle", "numpy.lib.format.read_array",
    "onnxruntime.InferenceSession",
}  # fmt: skip
NEEDED = {
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
    "onnx.load": ("load_external_data", False),
    "onnx.load_model": ("load_external_data", False),
}
"""Calls that may be made only with this argument, in so many words."""
NEVER = {"allow_pickle": True, "weights_only": False, "shell": True}
"""Arguments that no call may have; whatever is not a constant counts as this value."""
ONCE = {"torch.load"}
"""Calls that need a permission even with the argument."""

PERMITTED = {
    ("omnifed/teachers/checkpoints.py", "torch.load"): "the one importer of SAM's .pth: pinned by its sha256 first",
    (
        "omnifed/devices/engines.py",
        "onnxruntime.InferenceSession",
    ): "the one place; from bytes that were looked through",
    (
        "sim/omnifed_sim/ray_grid.py",
        "import ray",
    ): "a researcher's own processes; a simulation takes nothing from others",
    ("benchmarks/dp_cost.py", "import multiprocessing"): "its own child, by an anonymous pipe; no user's data",
    ("benchmarks/dp_cost.py", "Connection.send"): "as above: one number",
    ("benchmarks/dp_cost.py", "Connection.recv"): "as above: one number",
}
"""By file and finding, why it is safe."""


class _Search(ast.NodeVisitor):
    """Findings of one module, by line."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.found: list[tuple[int, str]] = []
        self.has_connections = False

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imported(node, alias.name)
            self.names[alias.asname or alias.name.split(".")[0]] = (
                alias.name if alias.asname else alias.name.split(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            whole = f"{node.module or ''}.{alias.name}"
            self._imported(node, whole)
            self.names[alias.asname or alias.name] = whole

    def _imported(self, node: ast.AST, name: str) -> None:
        parts = name.split(".")
        heads = {".".join(parts[: i + 1]) for i in range(len(parts))}
        self.has_connections |= bool(heads & OPEN_MODULES)
        if heads & MODULES and not heads & OPEN_MODULES:
            self._add(node, f"import {min(heads & MODULES, key=len)}")

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = self._name(node.func)
        given = {word.arg: word.value for word in node.keywords}
        for word, bad in NEVER.items():
            if word in given and not _is(given[word], not bad):
                self._add(node, f"{word}={bad}")
        if name in CALLS or name in ONCE:
            self._add(node, name)
        if name in NEEDED:
            word, value = NEEDED[name]
            if word not in given or not _is(given[word], value):
                self._add(node, f"{name} without {word}={value}")
        if self.has_connections and isinstance(node.func, ast.Attribute) and node.func.attr in ("recv", "send"):
            self._add(node, f"Connection.{node.func.attr}")

    def _name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        return self.names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    def _add(self, node: ast.AST, what: str) -> None:
        self.found.append((node.lineno, what))  # type: ignore[attr-defined]


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def findings(text: str) -> list[str]:
    search = _Search()
    search.visit(ast.parse(text))
    return [what for _, what in search.found]


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_nothing_can_run_code_from_a_file_or_a_message() -> None:
    seen, found = set(), []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        search = _Search()
        search.visit(ast.parse(path.read_text(), name))
        for line, what in search.found:
            seen.add((name, what))
            if (name, what) not in PERMITTED:
                found.append(f"{name}:{line}: {what}")
    assert found == []
    assert set(PERMITTED) - seen == set(), "permissions that nothing needs any more"


def test_all_packages_were_searched() -> None:
    names = {path.relative_to(ROOT).parts[:2] for path in files()}
    wanted = {("omnifed", "trust"), ("server", "omnifed_server"), ("client", "omnifed_client"), ("sim", "omnifed_sim")}
    assert wanted <= names
    assert len(list(files())) > 200


BAD = {
    "import pickle": "import pickle",
    "import pickle as harmless": "import pickle",
    "from pickle import loads": "import pickle",
    "import _pickle": "import _pickle",
    "import cPickle": "import cPickle",
    "import dill": "import dill",
    "import cloudpickle": "import cloudpickle",
    "def f():\n    from joblib import load": "import joblib",
    "import shelve": "import shelve",
    "import marshal": "import marshal",
    "import ray": "import ray",
    "import multiprocessing": "import multiprocessing",
    "from multiprocessing import Queue": "import multiprocessing",
    "from multiprocessing import Pipe": "import multiprocessing",
    "import multiprocessing.pool": "import multiprocessing",
    "from torch import multiprocessing": "import torch.multiprocessing",
    "from concurrent.futures import ProcessPoolExecutor": "import concurrent.futures.ProcessPoolExecutor",
    "from torch.package import PackageImporter": "import torch.package",
    "import torch\ntorch.load(p)": "torch.load without weights_only=True",
    "import torch\ntorch.load(p, weights_only=False)": "weights_only=False",
    "import torch\ntorch.load(p, weights_only=True)": "torch.load",
    "import torch as t\nt.load(p, weights_only=flag)": "weights_only=False",
    "from torch import load as read\nread(p)": "torch.load without weights_only=True",
    "import torch\ntorch.jit.load(p)": "torch.jit.load",
    "from torch import jit\njit.load(p)": "torch.jit.load",
    "import torch\ntorch.hub.load('a', 'b')": "torch.hub.load",
    "import numpy as np\nnp.load(p)": "numpy.load without allow_pickle=False",
    "import numpy as np\nnp.load(p, allow_pickle=True)": "allow_pickle=True",
    "import numpy\nnumpy.load(p, None, flag)": "numpy.load without allow_pickle=False",
    "from numpy import load\nload(p)": "numpy.load without allow_pickle=False",
    "from numpy.lib import format\nformat.read_array(f)": "numpy.lib.format.read_array",
    "import yaml\nyaml.load(t, yaml.Loader)": "yaml.load",
    "from yaml import unsafe_load\nunsafe_load(t)": "yaml.unsafe_load",
    "import pandas as pd\npd.read_pickle(p)": "pandas.read_pickle",
    "eval(t)": "eval",
    "exec(t)": "exec",
    "compile(t, 'x', 'exec')": "compile",
    "__import__(t)": "__import__",
    "import os\nos.system(t)": "os.system",
    "import subprocess\nsubprocess.run(t, shell=True)": "shell=True",
    "import subprocess as s\ns.Popen(t, shell=flag)": "shell=True",
    "import onnx\nonnx.load(p)": "onnx.load without load_external_data=False",
    "import onnxruntime\nonnxruntime.InferenceSession(p)": "onnxruntime.InferenceSession",
    "from multiprocessing.connection import Connection\nConnection(1).recv()": "Connection.recv",
    "from multiprocessing import connection\nc.send(x)": "Connection.send",
}


@pytest.mark.parametrize("text", BAD)
def test_each_rule_finds_what_it_is_for(text: str) -> None:
    assert BAD[text] in findings(text)


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nnp.load(p, allow_pickle=False)",
        "import onnx\nonnx.load_from_string(b)\nonnx.load(p, load_external_data=False)",
        "from multiprocessing.connection import Connection\nConnection(1).recv_bytes()",
        "import subprocess\nsubprocess.run([t])\nsubprocess.run([t], shell=False)",
        "import re\nre.compile(t)\nmodel.eval()",
        "from concurrent.futures import ThreadPoolExecutor",
        "import json\njson.loads(t)\nsocket.recv(4)",
    ],
)
def test_what_is_safe_passes(text: str) -> None:
    assert findings(text) == []


RUN = """
import sys
found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
import pickle
pickle.loads(pickle.dumps(OSError))
assert found, "the hook does see a pickle"
from pathlib import Path
sys.path.insert(0, {here!r})
from test_executor import SiteData, SiteExecutor, STUDENT, fit_task, squares, SITE
from omnifed.federation.tasks import EvaluateTask, TeachTask
from omnifed.distill.spec import DistillSpec
from test_teacher_stays import TEACHER
site = SiteExecutor(SiteData(SITE, squares(6, 1), squares(3, 2), squares(3, 4), (), ()), Path({folder!r}))
found.clear()
tasks = (
    TeachTask(id="t", arm="a", teacher=TEACHER),
    fit_task(teacher=TEACHER, distill=DistillSpec()),
    EvaluateTask(id="e", arm="a", student=STUDENT, which="adopted"),
)
replies = [site.execute(task, {{}})[0].kind for task in (*tasks, *tasks)]
print(replies, found)
"""


def test_a_sites_work_unpickles_nothing(tmp_path: Path) -> None:
    """Not even in the libraries below: Python itself reports each class that a pickle asks for."""
    code = RUN.format(here=str(ROOT / "tests" / "client"), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{['teach', 'fit', 'evaluate'] * 2} []"
