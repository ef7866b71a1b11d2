"""Processes that believe something else: another time, or that they are of another release."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) { const char *s = getenv("OMNIFED_TEST_CLOCK_S"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *out) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(id, out);
  if (id == CLOCK_REALTIME) out->tv_sec += offset();
  return status;
}
time_t time(time_t *out) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"""
RELEASE = """
import importlib.machinery, os
_get_code = importlib.machinery.SourceFileLoader.get_code
def get_code(self, name):
    if name != "omnifed.federation.protocol":
        return _get_code(self, name)
    source = self.get_data(self.path).decode()
    for line in os.environ["OMNIFED_TEST_RELEASE"].split("|"):
        assert "\\n" + line.split(" = ")[0] in source, line
        source += line + "\\n"
    return compile(source, self.path, "exec")
importlib.machinery.SourceFileLoader.get_code = get_code
"""


def clock(folder: Path, seconds: int) -> dict[str, str]:
    """Variables for a process whose clock is ``seconds`` ahead; skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed to shift a process's clock")
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "OMNIFED_TEST_CLOCK_S": str(seconds)}


def release(folder: Path, **constants: object) -> dict[str, str]:
    """Variables for a process of a release whose protocol has other ``constants``: PROTOCOL, MIN_PROTOCOL, SINCE."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(RELEASE)
    lines = "|".join(f"{key} = {value!r}" for key, value in constants.items())
    return {"PYTHONPATH": with_path(folder, os.environ), "OMNIFED_TEST_RELEASE": lines}


def with_path(folder: Path, environ: Mapping[str, str]) -> str:
    """PYTHONPATH with ``folder`` first."""
    return os.pathsep.join([str(folder), *filter(None, [environ.get("PYTHONPATH")])])
