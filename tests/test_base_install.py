"""What the base install runs must not need torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "code",
    [
        "import omnifed.cli.app, omnifed.cli.data, omnifed.cli.describe, omnifed.data.check, omnifed.export.session",
        "import omnifed.predict.run, omnifed.predict.seg, omnifed.serve.app",
        "from omnifed.models.scaling import costs; import omnifed.data.prepare, omnifed.federation.tasks",
    ],
)
def test_no_torch(code: str) -> None:
    heavy = "{'torch', 'monai', 'flwr', 'safetensors', 'matplotlib', 'scipy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}; print({heavy})"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_an_export_needs_no_monai() -> None:
    code = "import sys, omnifed.export.publish; print({'monai', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_onnx_runtime_keeps_no_telemetry(tmp_path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import omnifed.export.session"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
