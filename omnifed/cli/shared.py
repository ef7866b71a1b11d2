"""What all command lines of the framework share: one way to print an error, one exit code for it."""

from __future__ import annotations

import os
import sys
from typing import Any

# Before torch is loaded. A loop whose threads outnumber the cores that are free waits at every barrier: beside one busy
# program on two cores, two threads were up to 20 times slower than one, and alone only 1.25 times faster.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))

import typer
from rich.console import Console

from omnifed.errors import OmniFedError

EXIT_ERROR = 2
"""Exit code of every command that ends with an :class:`OmniFedError`."""


class App(typer.Typer):
    """A typer application that ends with the error's text on stderr and code 2, never with a traceback of ours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            no_args_is_help=options.pop("no_args_is_help", True),
            add_completion=False,
            rich_markup_mode="markdown",
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            **options,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command line."""
        try:
            return super().__call__(*args, **kwargs)
        except OmniFedError as error:
            Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
            sys.exit(EXIT_ERROR)
