"""`omnifed serve`: a local page that segments what is dropped on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnifed.cli.root import app


@app.command("serve")
def serve_page(
    model: Annotated[Path, typer.Argument(help="An exported model.", metavar="MODEL.onnx", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 for any free one.", min=0, max=65535)] = 8640,
    max_mb: Annotated[float, typer.Option(help="Largest upload in MB, all files together.", min=0.001)] = 512,
    limit_s: Annotated[float, typer.Option(help="Longest prediction in seconds.", min=0.1)] = 300,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines connect. There is no log-in.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a local page: drop an image, a NIfTI volume or a DICOM series, see the overlay, download the masks.

    The page answers this machine only. Images are deleted as soon as they are segmented, results as soon as the browser
    has them. Needs the extra `serve`. Ctrl-C ends it. Research use only, not a medical device.

    Example: `omnifed serve model.onnx --open`
    """
    from omnifed.serve.run import serve
    from omnifed.serve.settings import ServeConfig

    config = ServeConfig(
        model=model, host=host, port=port, max_mb=max_mb, limit_s=limit_s, allow_remote=allow_remote
    )  # fmt: skip

    def ready(address: str) -> None:
        typer.echo(f"{address}  (Ctrl-C ends it; research use only, not a medical device)")
        if allow_remote:
            typer.secho(
                "warning: no log-in and no encryption: whoever reaches this address can use it, and whoever listens on "
                "the network sees the images.",
                fg="yellow",
                err=True,
            )
        if open_page:
            import webbrowser

            webbrowser.open(address)

    serve(config, ready=ready)
