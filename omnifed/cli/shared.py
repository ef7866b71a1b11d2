"""What all command lines of the framework share: one way to print an error, one exit code for it."""

from __future__ import annotations

import os
import sys
from typing import Any

# Before torch is loaded: its threads then sleep at a barrier instead of spinning. Beside one busy program on two
# cores, spinning made a training step up to 20 times slower; a hospital's PC is rarely idle.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
