"""Reading the bodies of requests, within limits of size and time."""

import asyncio
from typing import Any

from starlette.requests import Request

from openhart.serving.problems import ProtocolError
from openhart.serving.protocol import parse_json

BODY_SECONDS = 60.0
DISCARDED = 64 * 2**20  # bytes that are read and dropped, so that a client sees the answer


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request.

    Args:
        request: the request.
        most: its largest size in bytes.

    Raises:
        ProtocolError: the body is too large or does not arrive in time.
        ClientDisconnect: the client went away.
    """
    size, chunks = 0, list[bytes]()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    chunks.append(chunk)
                else:
                    chunks.clear()
                if size > most + DISCARDED:
                    break
    except TimeoutError as error:
        headers = {"Connection": "close"}
        message = f"the body did not arrive within {BODY_SECONDS:g} seconds"
        raise ProtocolError(400, message, "body_timeout", headers=headers) from error
    if size > most:
        message = f"the body must have at most {most} bytes"
        raise ProtocolError(413, message, "body_too_large", headers={"Connection": "close"})
    return b"".join(chunks)


async def read_json(request: Request, most: int) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        ProtocolError: as :func:`read_body`; or the body is no JSON object.
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, most)
    if kind != "application/json":
        message = f"the header Content-Type must be application/json, got {kind[:60]!a}"
        raise ProtocolError(415, message, "unsupported_media_type")
    return parse_json(body)
