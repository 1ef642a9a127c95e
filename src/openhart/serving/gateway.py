"""The gateway in front of several replicas of the application, whatever carries requests to them.

It passes a request on and passes the answer back as it comes. If a replica dies before anything was sent to
the client, the request is tried again elsewhere: it has no effect but its answer. If it dies later, the
client gets the protocol's error as an event. No request waits without end.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from openhart.serving.bodies import DISCARDED, read_body
from openhart.serving.files import StoredFile
from openhart.serving.generations import event_text
from openhart.serving.middleware import REQUEST_ID, endpoint_of
from openhart.serving.problems import ProtocolError, problem_of
from openhart.serving.replica_metrics import GatewayMetrics, merged
from openhart.serving.request import RefusedError

LOG = logging.getLogger(__name__)
ACCEPTED = "openhart.accepted"
"""Type of the first message of a replica: it has begun to work on the request."""
ATTEMPTS = 3
FILE_TRIES = 20
FILE_PAUSE = 0.05  # seconds; an answer may be faster than the file that it names
UNAVAILABLE = "the replica that worked on this request was lost; try again"


class ReplicaLostError(Exception):
    """The replica that worked on a request has died."""


@dataclass(frozen=True)
class Call:
    """A request on its way to a replica.

    Attributes:
        method: HTTP method.
        scheme: ``http`` or ``https``.
        path: path.
        query: query string.
        headers: names in lower case, and values.
        body: the whole body.
    """

    method: str
    scheme: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


Forward = Callable[[Call], AsyncIterator[Message]]
"""Passes a call to some replica and yields :data:`ACCEPTED` and the messages of ASGI that are its answer.

Raises :class:`ReplicaLostError`, and :class:`RefusedError` if too many requests wait for replicas."""


class Gateway:
    """Answers requests by replicas.

    Args:
        forward: passes a call to a replica.
        file: finds an image that is fetched by its address, by its name.
        reports: the measurements of all replicas in the text format of Prometheus, by the replica's name.
        largest: bytes of a body.
        patience: seconds until a replica must have begun to work on a request.
    """

    def __init__(
        self,
        forward: Forward,
        file: Callable[[str], Awaitable[StoredFile | None]],
        reports: Callable[[], Awaitable[Mapping[str, bytes]]],
        largest: int = DISCARDED,
        patience: float = 60.0,
    ) -> None:
        self._forward = forward
        self._file = file
        self._reports = reports
        self._metrics = GatewayMetrics()
        self._largest = largest
        self._patience = patience

    async def answer(self, request: Request) -> Response:
        """Answer one request; every failure has the protocol's shape."""
        given = request.headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        try:
            if request.method == "GET" and request.url.path.startswith("/files/"):
                return await self._stored(request.url.path.removeprefix("/files/"))
            if request.method == "GET" and request.url.path == "/metrics":
                expositions = {**await self._reports(), "gateway": self._metrics.exposition()}
                return Response(merged(expositions), media_type=CONTENT_TYPE_LATEST)
            body = await read_body(request, self._largest)
            return await self._pass_on(_call(request, request_id, body), request_id)
        except (ProtocolError, RefusedError) as error:
            if isinstance(error, RefusedError):
                self._metrics.refused.labels(error.reason).inc()
            problem = problem_of(error, request_id)
        except Exception as error:
            LOG.exception("request %s failed", request_id)
            problem = problem_of(error, request_id)
        self._metrics.requests.labels(endpoint_of(request.url.path), str(problem.status)).inc()
        response = problem.response()
        response.headers["x-request-id"] = request_id
        return response

    async def _stored(self, name: str) -> Response:
        for _ in range(FILE_TRIES):
            if (found := await self._file(name)) is not None:
                headers = {"Cache-Control": "private, max-age=600", "X-Content-Type-Options": "nosniff"}
                return Response(found.content, media_type=found.media_type, headers=headers)
            await asyncio.sleep(FILE_PAUSE)
        raise ProtocolError(404, "there is no file of this name, or its time is over")

    async def _pass_on(self, call: Call, request_id: str) -> Response:
        """The answer of the first replica that survives until it has something to send.

        Raises:
            RefusedError: too many requests wait, or each replica was lost.
        """
        for _ in range(ATTEMPTS):
            messages = self._forward(call)
            try:
                return await self._begin(messages, request_id)
            except ReplicaLostError:
                self._metrics.lost.inc()
                LOG.warning("request %s lost its replica", request_id)
            except BaseException:
                await _close(messages)
                raise
        raise RefusedError(UNAVAILABLE, "unavailable", 5.0)

    async def _begin(self, messages: AsyncIterator[Message], request_id: str) -> Response:
        """The answer up to its first event, or all of it if it is no stream of events."""
        try:
            accepted = await asyncio.wait_for(anext(messages), self._patience)
        except TimeoutError as error:
            message = "no replica was free in time; try again later"
            raise RefusedError(message, "unavailable", 5.0) from error
        assert accepted["type"] == ACCEPTED
        start = await anext(messages)
        headers = Headers(raw=start["headers"])
        first = await anext(messages)
        if headers.get("content-type", "").startswith("text/event-stream"):
            response: Response = StreamingResponse(self._events(first, messages, request_id), start["status"])
        else:
            parts = [first["body"], *[message.get("body", b"") async for message in messages]]
            response = Response(b"".join(parts), start["status"])
        response.raw_headers = list(start["headers"])
        return response

    async def _events(
        self, first: Message, messages: AsyncIterator[Message], request_id: str
    ) -> AsyncIterator[bytes]:
        """The body of a stream of events; if the replica is lost, it ends with the protocol's error."""
        try:
            yield first["body"]
            async for message in messages:
                yield message.get("body", b"")
        except Exception as error:
            LOG.exception("request %s failed", request_id)
            if lost := isinstance(error, ReplicaLostError):
                self._metrics.lost.inc()
            problem = problem_of(RefusedError(UNAVAILABLE, "unavailable", 5.0) if lost else error, request_id)
            yield event_text("error", {"error": problem.error}).encode()
        finally:
            await _close(messages)


def _call(request: Request, request_id: str, body: bytes) -> Call:
    headers = [pair for pair in request.headers.raw if pair[0] != b"x-request-id"]
    headers.append((b"x-request-id", request_id.encode()))
    url = request.url
    return Call(request.method, url.scheme, url.path, url.query.encode(), headers, body)


async def _close(messages: Any) -> None:
    await messages.aclose()
