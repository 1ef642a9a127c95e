"""Errors in the shape of the protocol: status, message, type, code and parameter."""

import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from openhart.serving.request import GenerationError, RefusedError

NAMES = {405: "this path does not take the method {method}", 404: "there is no path {path}"}


class ProtocolError(Exception):
    """A request that is answered by an error.

    Args:
        status: HTTP status.
        message: one sentence that states what is wrong and what would be right.
        code: short name of the problem for programs, or None.
        param: the parameter at fault, or None.
        kind: the protocol's ``type``.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.error = {"message": message, "type": kind, "param": param, "code": code}

    def response(self) -> Response:
        """The answer."""
        return JSONResponse({"error": self.error}, self.status, self.headers)


def refusal(error: RefusedError) -> ProtocolError:
    """The answer to a request that the engine refuses."""
    headers = {"Retry-After": str(math.ceil(error.retry_after))}
    if error.reason in ("queue_full", "key_limit"):
        headers["retry-after-ms"] = str(int(error.retry_after * 1000))
        return ProtocolError(429, str(error), error.reason, kind="rate_limit_error", headers=headers)
    return ProtocolError(503, str(error), error.reason, kind="server_error", headers=headers)


def server_error(request_id: str) -> ProtocolError:
    """The answer when the fault is the server's; the log has the cause under the same id."""
    return ProtocolError(
        500,
        f"the server failed to answer this request; its log has the cause under the request id {request_id}",
        kind="server_error",
    )


def problem_of(error: Exception, request_id: str) -> ProtocolError:
    """The problem that an exception of a handler or of the engine means to the client."""
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, RefusedError):
        return refusal(error)
    return server_error(request_id)


async def answer_problem(request: Request, error: Exception) -> Response:
    """Starlette's handler of :class:`ProtocolError`, :class:`RefusedError` and :class:`GenerationError`."""
    return problem_of(error, request.state.request_id).response()


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of its own errors, such as an unknown path."""
    assert isinstance(error, HTTPException)
    sentence = NAMES.get(error.status_code, str(error.detail))
    message = sentence.format(method=request.method, path=request.url.path[:200])
    return ProtocolError(error.status_code, message, headers=error.headers).response()


HANDLERS: dict[Any, Any] = {
    ProtocolError: answer_problem,
    RefusedError: answer_problem,
    GenerationError: answer_problem,
    HTTPException: answer_http_error,
}
"""What answers each kind of exception."""
