"""Plain ASGI middleware: request ids, errors in the protocol's shape, foreign pages, measurements, log."""

import logging
import re
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openhart.serving.metrics import Metrics
from openhart.serving.problems import ProtocolError, server_error

LOG = logging.getLogger("openhart.serving")
REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
ENDPOINTS = re.compile(r"/v1/(images/\w{1,20}|models)|/(health|ready|metrics|files)?(?=/|$)")


class Frame:
    """Outermost layer of the application.

    Args:
        app: the application.
        metrics: where answers are counted.
        origins: origins of web pages other than the server's own that may send requests.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: tuple[str, ...] = ()) -> None:
        self.app = app
        self.metrics = metrics
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        answer = Answer(send, request_id)
        begin = time.monotonic()
        try:
            if self._is_foreign(scope, headers):
                await _foreign().response()(scope, receive, answer.send)
            else:
                await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            self.metrics.cancelled.inc()
            answer.status = answer.status or 499
        except Exception:
            LOG.exception("request %s failed", request_id)
            if not answer.status:
                await server_error(request_id).response()(scope, receive, answer.send)
        finally:
            self._record(scope, answer.status or 499, time.monotonic() - begin, request_id)

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or scope["method"] in ("GET", "HEAD", "OPTIONS") or "*" in self.origins:
            return False
        return origin not in self.origins and urlsplit(origin).netloc != headers.get("host")

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        self.metrics.answered(endpoint_of(scope["path"]), status, seconds)
        level = logging.DEBUG if scope["path"] in ("/health", "/ready", "/metrics") else logging.INFO
        path = scope["path"][:100].encode("ascii", "backslashreplace").decode()
        LOG.log(level, "%s %s %s %.3f s %s", scope["method"], path, status, seconds, request_id)


class Answer:
    """Passes an answer on, with the request's id, and notes its status.

    Args:
        send: ASGI's send.
        request_id: the id.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.status = 0
        self._send = send
        self._request_id = request_id

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        await self._send(message)


def endpoint_of(path: str) -> str:
    """The part of a path that measurements show; anything that a client can make up is ``other``."""
    match = ENDPOINTS.match(path)
    return match[0] if match else "other"


def _foreign() -> ProtocolError:
    return ProtocolError(
        403,
        "requests from pages of other sites are refused; the operator can allow a site by --cors-origin",
        "foreign_origin",
    )


def cors_options(origins: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of Starlette's ``CORSMiddleware``."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "expose_headers": ["x-request-id", "retry-after", "x-openhart-warning"],
        "max_age": 600,
    }
