"""`omnifed verify`, and `omnifed predict --require-signed`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from omnifed.cli.app import app
from omnifed.errors import OmniFedError
from omnifed.trust.authority import revoke
from omnifed.trust.signing import fingerprint

sys.path.insert(0, str(Path(__file__).parents[1] / "trust"))
from made_models import Federation, content


@pytest.fixture
def made(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def run(*arguments: object) -> Result:
    result = CliRunner(mix_stderr=False).invoke(app, [*map(str, arguments)], env={"COLUMNS": "300"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_members_model_ends_with_0_and_says_who_signed(made: Federation) -> None:
    done = run("verify", made.model, "--roster", made.roster, "--root", fingerprint(made.root))
    assert done.exit_code == 0
    assert "not checked" not in done.stdout
    assert "north, member of liver-net" in done.stdout
    assert "aggregation private, differential privacy epsilon 3" in done.stdout
    assert "verified: whole, and signed by a member of the federation" in done.stdout
    assert run("verify", made.model, "--kit", made.south.folder).exit_code == 0


def test_without_a_federation_it_ends_with_3_and_says_that_nobody_vouches(made: Federation) -> None:
    done = run("verify", made.model)
    assert done.exit_code == 3
    assert "whose key it is was NOT checked" in done.stdout
    assert "intact, NOT verified" in done.stdout


def test_a_revoked_signer_ends_with_3(made: Federation) -> None:
    revoke(made.coordinator.folder, "north")
    done = run("verify", made.model, "--roster", made.roster, "--root", made.root)
    assert done.exit_code == 3
    assert "north was revoked" in done.stdout


def test_a_changed_model_ends_with_2_and_names_the_page(made: Federation) -> None:
    made.model.write_bytes(content(2.0))
    done = run("verify", made.model, "--kit", made.south.folder)
    assert done.exit_code == 2
    assert "refused: do not use this file" in done.stdout
    assert "docs/errors/OF871.md" in done.stdout
    assert "the file was refused before" in done.stdout


def test_json_has_every_check(made: Federation) -> None:
    done = run("verify", made.model, "--kit", made.south.folder, "--json")
    verdict = json.loads(done.stdout)
    assert verdict["result"] == "verified"
    names = ["file", "manifest", "content", "signer", "revocation", "check sum", "graph", "card"]
    assert [(check["name"], check["state"]) for check in verdict["checks"]] == [(name, "ok") for name in names]
    assert verdict["manifest"]["origin"]["campaign"] == "liver"


def test_a_roster_without_its_root_is_a_numbered_error(made: Federation) -> None:
    with pytest.raises(OmniFedError, match="OF876"):
        run("verify", made.model, "--roster", made.roster)


def test_predict_takes_a_signed_model_and_no_other(made: Federation) -> None:
    image = made.folder / "image.png"
    Image.fromarray(np.full((32, 32), 150, np.uint8)).save(image)
    wanted = ("--input", image, "--engine", "ort", "--overlay", "none", "--require-signed", made.south.folder)
    assert run("predict", made.model, *wanted, "--output", made.folder / "a").exit_code == 0
    for code, model in (("OF871", content(2.0)), ("OF871", b"no model at all")):
        made.model.write_bytes(model)
        with pytest.raises(OmniFedError, match=code):
            run("predict", made.model, *wanted, "--output", made.folder / "b")
    made.beside.unlink()
    with pytest.raises(OmniFedError, match="OF872"):
        run("predict", made.model, *wanted, "--output", made.folder / "b")
    assert not (made.folder / "b").exists()


def test_verification_loads_no_torch_and_no_engine(made: Federation) -> None:
    code = (
        "import sys\nfrom omnifed.cli.app import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'flwr'} & set(sys.modules)))"
    )
    command = [sys.executable, "-P", "-c", code, "verify", str(made.model), "--kit", str(made.south.folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
