"""`omnifed serve` from start to end."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.export.session import load
from omnifed.serve.settings import ServeConfig, listen


def serve(config: ServeConfig, *, ready: Callable[[str], None], command: Sequence[str] | None = None) -> None:
    """Serves the page until the process is asked to end (SIGINT, SIGTERM); nothing of any job is left then.

    Args:
        config: what to serve.
        ready: called with the page's address once it can be asked for.
        command: runs `omnifed` instead of this installation.

    Raises:
        OmniFedError: OF602..OF604 and OF607 a model that is none, OF650 starlette or uvicorn are missing, OF651 and
            OF652 as :func:`listen`.
    """
    uvicorn = _uvicorn()
    from omnifed.serve import child
    from omnifed.serve.app import build, describe
    from omnifed.serve.jobs import Jobs

    about = describe(config, load(config.model, threads=1))
    opened = listen(config)
    folder = Path(tempfile.mkdtemp(prefix="omnifed-serve-"))  # 0700
    # uvicorn raises the signal again once it has ended: the folder must still be deleted.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        # A copy: what the page says of the model stays true when the file is replaced.
        model = Path(shutil.copyfile(config.model, folder / "model.onnx"))

        async def run(source: Path, target: Path) -> Any:
            return await child.predict(model, source, target, config.limit_s, command or child.OMNIFED)

        app = build(config, about, Jobs(folder, run, config.max_bytes))
        host, port = opened.getsockname()[:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        options = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_graceful_shutdown": 3}
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        opened.close()
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _uvicorn() -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise OmniFedError(
            "OF650",
            "The page needs the extra 'serve'.",
            seen=f"no module {error.name}",
            remedy="Install it: pip install 'omnifed[serve]'.",
        ) from None
    return uvicorn
