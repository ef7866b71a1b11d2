"""What is said of a file that its decoder does not survive, and of an answer that nobody believes."""

from __future__ import annotations

from omnifed.errors import OmniFedError


def broken(seen: str) -> OmniFedError:
    """OF880 with what was seen."""
    return OmniFedError(
        "OF880",
        "A file must not break its decoder.",
        seen=seen,
        remedy="Export the file again; treat one that does it again as hostile.",
    )


def too_long(seen: str) -> OmniFedError:
    """OF881 with what was seen."""
    return OmniFedError(
        "OF881",
        "A file must be decoded within the time limit (2 s of processor time for a small one, more for larger ones).",
        seen=seen,
        remedy="Export the file again, uncompressed; treat one that does it again as hostile.",
    )


def too_much(seen: str) -> OmniFedError:
    """OF882 with what was seen."""
    return OmniFedError(
        "OF882",
        "A file must be decoded within the memory limit (512 MiB for a small one, more for larger ones).",
        seen=seen,
        remedy="Export the file again, uncompressed or as a smaller type; treat an unknown one as hostile.",
    )


def unbelievable(seen: str) -> OmniFedError:
    """OF883 with what was seen."""
    return OmniFedError(
        "OF883",
        "The process that reads files must start, and answer what it was asked.",
        seen=seen,
        remedy="See docs/errors/OF883.md: a file may have taken it over, or the system does not let it start.",
    )
