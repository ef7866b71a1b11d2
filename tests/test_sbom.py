"""`make sbom` lists what is installed, the same each time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

needs_tools = pytest.mark.skipif(
    shutil.which("make") is None or not (BIN / "cyclonedx-py").is_file(),
    reason="make or cyclonedx-bom is not installed",
)


def made(target: Path, *options: str) -> bytes:
    """What the recipe of the Makefile writes, with further options."""
    command = ["make", "-n", "-o", ".venv/.installed", "sbom", f"BIN={BIN}", f"SBOM={target}"]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in recipe.splitlines() if "cyclonedx-py" in line)
    subprocess.run([*line.split(), *options], cwd=ROOT, check=True, capture_output=True)
    return target.read_bytes()


@needs_tools
def test_it_names_packages_and_versions_and_no_path_and_is_reproducible(tmp_path: Path) -> None:
    first = made(tmp_path / "a.json", "--no-validate")  # its own validation takes 13 s
    bill = json.loads(first)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "omnifed"
    listed = {part["name"]: part["version"] for part in bill["components"]}
    for name in ("torch", "flwr", "cryptography", "pydicom", "onnxruntime", "safetensors"):
        assert listed[name] == version(name)
    assert str(ROOT).encode() not in first
    assert made(tmp_path / "b.json", "--no-validate") == first


@needs_tools
def test_its_parts_are_valid_cyclonedx(tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill = json.loads(made(tmp_path / "a.json", "--no-validate"))
    few = [part for part in bill["components"] if part["name"] in ("torch", "flwr", "cryptography")]
    refs = {part["bom-ref"] for part in few} | {bill["metadata"]["component"]["bom-ref"]}
    bill["components"] = few
    bill["dependencies"] = [{"ref": ref} for ref in sorted(refs)]
    validate = JsonStrictValidator(SchemaVersion.V1_6).validate_str
    assert validate(json.dumps(bill)) is None
    few[0].pop("name")
    assert validate(json.dumps(bill)) is not None


@needs_tools
@pytest.mark.slow
def test_the_whole_of_it_is_valid_cyclonedx(tmp_path: Path) -> None:
    assert made(tmp_path / "a.json", "--validate")
