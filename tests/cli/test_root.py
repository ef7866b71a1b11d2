from __future__ import annotations

from typer.testing import CliRunner

import omnifed
from omnifed.cli.app import app


def test_the_version_is_the_packages() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout.strip()) == (0, omnifed.__version__)
