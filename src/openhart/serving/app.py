"""The web application: the routes of the OpenAI Images protocol, health, measurements, files and the page."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from openhart.serving.bodies import DISCARDED, read_body
from openhart.serving.generations import generations
from openhart.serving.middleware import Frame, cors_options
from openhart.serving.page import page_routes
from openhart.serving.problems import HANDLERS, ProtocolError
from openhart.serving.service import Service

STARTED = int(time.time())


def create_app(service: Service) -> Starlette:
    """The application of a service; the service opens when the application starts."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        opening = asyncio.create_task(service.open())
        try:
            yield
        finally:
            opening.cancel()
            await service.close()

    origins = service.settings.cors_origins
    middleware = [Middleware(Frame, metrics=service.metrics, origins=origins)]
    if origins:
        middleware.append(Middleware(CORSMiddleware, **cors_options(origins)))
    routes = [
        Route("/v1/images/generations", generations, methods=["POST"]),
        Route("/v1/images/edits", edits, methods=["POST"]),
        Route("/v1/images/variations", variations, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/files/{name:path}", file, name="file"),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        *(page_routes() if service.settings.page else []),
    ]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=HANDLERS, lifespan=lifespan)
    app.state.service = service
    return app


async def edits(request: Request) -> Response:
    """Answer a request for an edited image, which is not supported yet."""
    _service(request).authorize(request)
    await read_body(request, DISCARDED)
    raise ProtocolError(404, "this model cannot edit images yet; /v1/images/generations makes new ones")


async def variations(request: Request) -> Response:
    """Answer a request of a part of the protocol that was retired."""
    await read_body(request, DISCARDED)
    raise ProtocolError(404, "/v1/images/variations was retired; its successor is /v1/images/edits")


async def models(request: Request) -> Response:
    """The list of models: one, under each of its names."""
    service = _service(request)
    service.authorize(request)
    data = [_described(service, name) for name in service.settings.names]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """One model."""
    service, name = _service(request), request.path_params["name"]
    service.authorize(request)
    if name not in service.settings.names:
        names = ", ".join(service.settings.names)
        message = f"there is no model {name[:60]!a} here; there is {names}"
        raise ProtocolError(404, message, "model_not_found", "model")
    return JSONResponse(_described(service, name))


def _described(service: Service, name: str) -> dict[str, Any]:
    ours = None if service.model is None else service.model.description()
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "openhart", "openhart": ours}


async def file(request: Request) -> Response:
    """A stored image."""
    found = _service(request).files.get(request.path_params["name"])
    if found is None:
        raise ProtocolError(404, "there is no file of this name, or its time is over")
    headers = {"Cache-Control": "private, max-age=600", "X-Content-Type-Options": "nosniff"}
    return Response(found.content, media_type=found.media_type, headers=headers)


async def health(request: Request) -> Response:
    """200 while the process works, 503 once the engine has died."""
    engine = _service(request).engine
    alive = engine is None or engine.alive or engine.draining
    return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)


async def ready(request: Request) -> Response:
    """200 while requests are accepted, else 503."""
    service = _service(request)
    if service.ready:
        return JSONResponse({"status": "ready"})
    draining = service.engine is not None and service.engine.draining
    status = {"status": "draining" if draining else "loading"}
    return JSONResponse(status, 503, headers={"Retry-After": "5"})


async def metrics(request: Request) -> Response:
    """The measurements in the text format of Prometheus."""
    content, media_type = _service(request).metrics.exposition()
    return Response(content, media_type=media_type)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
