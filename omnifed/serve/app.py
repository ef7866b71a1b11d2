"""The page's HTTP interface.

A job is announced (``POST /jobs``), its files are sent one by one (``PUT /jobs/ID/files/N``), it is started, asked for,
its pictures and outputs are fetched, and it is deleted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from omnifed.config import Frozen
from omnifed.data.overlay import colour
from omnifed.errors import OmniFedError
from omnifed.export.card import NOTICE
from omnifed.export.session import Session
from omnifed.serve.answers import failures, overlays, results
from omnifed.serve.guard import Guard, problem
from omnifed.serve.jobs import Job, Jobs, gone
from omnifed.serve.settings import ServeConfig

_STATIC = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_STATUS = {"OF103": 507, "OF653": 413, "OF654": 413, "OF658": 404, "OF659": 503}


class Announced(Frozen):
    """What a page is going to send.

    Attributes:
        files: how many.
        bytes: of all files together.
    """

    files: int = Field(ge=1)
    bytes: int = Field(ge=0)


def build(config: ServeConfig, about: dict[str, Any], jobs: Jobs) -> Starlette:
    """Makes the application.

    Args:
        config: what is permitted.
        about: of :func:`describe`.
        jobs: where predictions are made; closed when the application ends.
    """

    async def model(request: Request) -> Response:
        return JSONResponse(about)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": about["sha256"], "busy": jobs.busy})

    async def announce(request: Request) -> Response:
        try:
            said = Announced.model_validate_json(await _small(request))
        except ValidationError:
            return Response(status_code=400)
        return JSONResponse({"id": jobs.open(said.files, said.bytes).id}, 201)

    async def receive(request: Request) -> Response:
        job = _job(request)
        length = request.headers.get("content-length", "0")
        jobs.check(1, job.size + (int(length) if length.isdecimal() else 0))
        await jobs.receive(job, request.path_params["n"], request.query_params.get("suffix", ""), request.stream())
        return Response(status_code=201)

    async def start(request: Request) -> Response:
        jobs.start(_job(request))
        return Response(status_code=202)

    async def look(request: Request) -> Response:
        job = _job(request)
        return JSONResponse({"state": job.state, "results": results(job), "errors": failures(job)})

    async def picture(request: Request) -> Response:
        job, prediction = _prediction(request)
        return _file(overlays(job, prediction), request.path_params["k"], "image/png")

    async def output(request: Request) -> Response:
        _, prediction = _prediction(request)
        return _file([Path(name) for name in prediction["outputs"]], 0, "application/octet-stream")

    async def delete(request: Request) -> Response:
        await jobs.remove(_job(request))
        return Response(status_code=204)

    def _job(request: Request) -> Job:
        return jobs.get(request.path_params["job"])

    def _prediction(request: Request) -> tuple[Job, Any]:
        job, n = _job(request), request.path_params["n"]
        found = (job.report or {}).get("predictions", [])
        if n >= len(found):
            raise gone("no such result")
        return job, found[n]

    return Starlette(
        routes=[
            *(Route(path, _static(*what)) for path, what in _STATIC.items()),
            Route("/model", model),
            Route("/healthz", health),
            Route("/jobs", announce, methods=["POST"]),
            Route("/jobs/{job}", look),
            Route("/jobs/{job}", delete, methods=["DELETE"]),
            Route("/jobs/{job}/files/{n:int}", receive, methods=["PUT"]),
            Route("/jobs/{job}/start", start, methods=["POST"]),
            Route("/jobs/{job}/results/{n:int}/pictures/{k:int}", picture),
            Route("/jobs/{job}/results/{n:int}/output", output),
        ],
        middleware=[Middleware(Guard, host=config.host, remote=config.allow_remote)],
        exception_handlers={OmniFedError: _failed, ClientDisconnect: _left},
        lifespan=_lifespan(jobs),
    )


def describe(config: ServeConfig, session: Session) -> dict[str, Any]:
    """What the page shows of the model, and the limits that it names before it sends anything."""
    card = session.card
    return {
        "name": config.model.stem,
        "sha256": session.sha256,
        "notice": NOTICE,
        "modality": card.modality,
        "size": list(card.image_size),
        "precision": card.precision,
        "warnings": list(session.warnings),
        "labels": [
            {"name": name, "colour": f"#{bytes(colour(label)).hex()}"} for label, name in card.labels.items() if label
        ],
        "max_mb": config.max_mb,
        "limit_s": config.limit_s,
    }


def _lifespan(jobs: Jobs) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        import asyncio

        sweeper = asyncio.create_task(jobs.sweep())
        try:
            yield {}
        finally:
            sweeper.cancel()
            await jobs.close()

    return lifespan


def _static(name: str, kind: str) -> Any:
    content = files("omnifed.serve").joinpath(name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


async def _small(request: Request, limit: int = 1000) -> bytes:
    """The body of a request that has no reason to be long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return b""
    return body


def _file(found: list[Path], k: int, kind: str) -> Response:
    if k >= len(found):
        raise gone("no such picture")
    return FileResponse(found[k], media_type=kind)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, OmniFedError)
    answer = problem(error, _STATUS.get(error.code, 400))
    # What is left of a refused upload is not read.
    answer.headers["Connection"] = "close"
    return answer


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)
