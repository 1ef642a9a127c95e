"""POST /v1/images/generations: from the body of a request to its answer, whole or as events."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from openhart.errors import UserError
from openhart.serving.bodies import read_json
from openhart.serving.encoding import Encoding
from openhart.serving.problems import ProtocolError, problem_of
from openhart.serving.protocol import (
    Generation,
    parse_generation,
    parse_size,
    value_problem,
)
from openhart.serving.request import Finished, ImageRequest, Preview, Ticket
from openhart.serving.service import Service

if TYPE_CHECKING:
    from openhart.serving.model import ServedModel

COMMENT_SECONDS = 15.0  # proxies cut a stream that is silent for longer
EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Order:
    """A checked request and how its answer is to look.

    Attributes:
        service: the service.
        model: the model.
        parameters: the parameters of the protocol.
        request: what the engine gets.
        encoding: file format of the images.
        warnings: sentences for the header ``x-openhart-warning``.
        file_url: address of a stored file without its name.
    """

    service: Service
    model: "ServedModel"
    parameters: Generation
    request: ImageRequest
    encoding: Encoding
    warnings: list[str]
    file_url: str

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"x-openhart-warning": "; ".join(self.warnings)} if self.warnings else {}

    def common(self) -> dict[str, Any]:
        """Fields that answers and events share."""
        height, width = self.encoding.size or self.request.size
        return {
            "background": "opaque",
            "output_format": self.parameters.output_format,
            "quality": self.parameters.shown_quality,
            "size": f"{width}x{height}",
        }

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompt and codes that were drawn."""
        prompt, _ = self.model.tokens(self.request.prompt)
        codes = self.model.codes_per_image(self.request.size) * self.request.count
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"text_tokens": prompt, "image_tokens": 0},
            "output_tokens": codes,
            "output_tokens_details": {"image_tokens": codes, "text_tokens": 0},
            "total_tokens": prompt + codes,
        }

    async def check(self, image: Image.Image | None = None) -> None:
        """Have the safety checker see the prompt, or an image too.

        Raises:
            ProtocolError: the checker refuses it.
        """
        await self.service.safety.check(self.request.prompt, image, self.parameters.moderation)

    async def file(self, image: Image.Image, position: int | None) -> bytes:
        """The bytes of an image, with its record if it is a final one."""
        record = None
        if self.service.settings.metadata and position is not None:
            record = self.model.record(self.request, position)
        return await run_in_threadpool(self.encoding.encode, image, record, position is None)


async def generations(request: Request) -> Response:
    """Answer a request for images."""
    service: Service = request.app.state.service
    owner = service.authorize(request)
    order = await _order(request, service, owner)
    engine, _ = service.parts()
    engine.check(order.request)
    await order.check()
    ticket = engine.submit(order.request)
    if order.parameters.stream:
        return EventStream(order, ticket, request.state.request_id)
    try:
        images = await _unless_disconnected(request, ticket)
    finally:
        ticket.close()
    data = [await _entry(order, image, position) for position, image in enumerate(images)]
    answer = {"created": int(time.time()), **order.common(), "data": data, "usage": order.usage()}
    if order.parameters.safety_identifier is not None:
        answer["safety_identifier"] = order.parameters.safety_identifier
    return JSONResponse(answer, headers=order.headers)


async def _order(request: Request, service: Service, owner: str) -> Order:
    from openhart.randomness import random_seed

    values = await read_json(request, service.settings.body_bytes)
    _, model = service.parts()
    parsed = parse_generation(values, model.sampling_names, service.settings.largest_n)
    parameters, names = parsed.parameters, service.settings.names
    if parameters.model is not None and parameters.model not in names:
        message = f"there is no model {parameters.model[:60]!a} here; there is {', '.join(names)}"
        raise ProtocolError(404, message, "model_not_found", "model")
    warnings: list[str] = []
    wanted = parse_size(parameters.size)
    try:
        settings = model.settings(parameters.quality, parsed.sampling)
        size = _size(model, wanted, service.settings.resize, warnings)
        model.check(size, settings, parameters.prompt, parameters.negative_prompt)
    except UserError as error:
        fields = ("size", "prompt", "negative_prompt", *model.sampling_names)
        raise value_problem(error, fields) from error
    if (cut := model.tokens(parameters.prompt)[1]) is not None:
        warnings.append(f"the prompt was cut to its first {cut} tokens")
    return Order(
        service,
        model,
        parameters,
        ImageRequest(
            parameters.prompt,
            random_seed() if parameters.seed is None else parameters.seed,
            size,
            settings,
            parameters.n,
            parameters.negative_prompt,
            parameters.previews,
            owner,
        ),
        Encoding(
            parameters.output_format,
            parameters.output_compression,
            wanted if wanted is not None and wanted != size else None,
        ),
        warnings,
        str(request.url_for("file", name="")),
    )


def _size(
    model: "ServedModel", wanted: tuple[int, int] | None, resize: bool, warnings: list[str]
) -> tuple[int, int]:
    """Height and width to generate.

    Raises:
        ProtocolError: the model does not generate this size.
        UserError: it has a fixed size of another aspect ratio.
    """
    if wanted is None or wanted == model.size:
        return model.size
    try:
        model.check(wanted, model.settings("high", {}), "0", None)
    except UserError as error:
        if not resize:
            own = f"{model.size[1]}x{model.size[0]}"
            asked = f"{wanted[1]}x{wanted[0]}"
            message = (
                f"size {asked} cannot be generated ({error}): omit size or give {own}; the operator can let "
                "images be resized by --size-policy resize"
            )
            raise ProtocolError(400, message, "invalid_value", "size") from error
        found = model.nearest_size(wanted)
        warnings.append(f"the image was generated with {found[1]}x{found[0]} pixels and resized")
        return found
    return wanted


async def _unless_disconnected(request: Request, ticket: Ticket) -> list[Image.Image]:
    """The images of a ticket, unless the client goes away before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(ticket.images()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()


async def _entry(order: Order, image: Image.Image, position: int) -> dict[str, Any]:
    await order.check(image)
    content = await order.file(image, position)
    seed = order.request.seed_of(position)
    if order.parameters.response_format == "b64_json":
        return {"b64_json": base64.b64encode(content).decode(), "seed": seed}
    kind = order.parameters.output_format
    name = order.service.files.add(content, order.encoding.media_type, kind)
    return {"url": order.file_url + name, "seed": seed}


class EventStream(StreamingResponse):
    """The answer to a request with ``stream``: server-sent events.

    Args:
        order: the request.
        ticket: its ticket, which is closed when the answer ends, however it ends.
        request_id: id of the request, for errors.
    """

    def __init__(self, order: Order, ticket: Ticket, request_id: str) -> None:
        super().__init__(
            _events(order, ticket, request_id),
            media_type="text/event-stream",
            headers={**EVENT_HEADERS, **order.headers},
        )
        self._order = order
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._ticket.ended:
                self._order.service.metrics.cancelled.inc()
            self._ticket.close()


async def _events(order: Order, ticket: Ticket, request_id: str) -> AsyncIterator[str]:
    """The text of all events of a request."""
    shown = 0
    try:
        while True:
            try:
                event = await asyncio.wait_for(ticket.next(), COMMENT_SECONDS)
            except TimeoutError:
                yield ": waiting\n\n"
                continue
            if isinstance(event, Finished):
                yield await _completed(order, event.images[0])
                return
            yield await _partial(order, event, shown)
            shown += 1
    except Exception as error:  # noqa: BLE001 — the client gets it as an event
        yield event_text("error", {"error": problem_of(error, request_id).error})


async def _partial(order: Order, preview: Preview, index: int) -> str:
    await order.check(preview.image)
    content = await order.file(preview.image, None)
    return event_text(
        "image_generation.partial_image",
        {
            "b64_json": base64.b64encode(content).decode(),
            "created_at": int(time.time()),
            "partial_image_index": index,
            "scale_index": preview.scale_index,
            "scales": preview.scales,
            **order.common(),
        },
    )


async def _completed(order: Order, image: Image.Image) -> str:
    entry = await _entry(order, image, 0)
    return event_text(
        "image_generation.completed",
        {**entry, "created_at": int(time.time()), "usage": order.usage(), **order.common()},
    )


def event_text(name: str, fields: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n"
