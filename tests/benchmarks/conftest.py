"""The benchmarks are scripts, not installed: their folder is what the interpreter would put on its path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
