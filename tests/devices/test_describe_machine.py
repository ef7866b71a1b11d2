"""A machine is named by processor, cores and memory, never by its host."""

from __future__ import annotations

import platform
from pathlib import Path

from omnifed.devices.machine import describe_machine


def test_a_board_names_itself(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: ARMv8 Processor rev 3\n")
    assert describe_machine(tmp_path).text.startswith("ARMv8 Processor rev 3, ")
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    assert describe_machine(tmp_path).text.startswith("Raspberry Pi 4 Model B Rev 1.4, ")


def test_this_machine() -> None:
    text, cores, memory = describe_machine()
    assert cores >= 1
    assert memory > 256
    assert text.endswith(f", {cores} cores, {memory / 1024:.1f} GiB")
    assert platform.node() not in text
