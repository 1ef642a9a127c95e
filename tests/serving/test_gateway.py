"""The gateway without Ray: lost replicas, full queues, streams and files, with scripted replicas."""

import asyncio
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from openhart.serving.files import StoredFile
from openhart.serving.gateway import ACCEPTED, ATTEMPTS, Gateway, ReplicaLostError
from openhart.serving.request import RefusedError

EVENTS = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]


class Replicas:
    """Yields the messages of one script per call; an exception in a script is raised."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.calls = []
        self.closed = 0

    async def forward(self, call):
        self.calls.append(call)
        try:
            for step in self.scripts[min(len(self.calls), len(self.scripts)) - 1]:
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    await asyncio.sleep(30)
                yield step
        finally:
            self.closed += 1


def answer(headers, *bodies, status=200):
    start = {"type": "http.response.start", "status": status, "headers": headers}
    return [{"type": ACCEPTED}, start, *({"type": "http.response.body", "body": body} for body in bodies)]


def ask(replicas, method="POST", path="/v1/images/generations", files=None, **options):
    async def file(name):
        return (files or {}).get(name)

    gateway = Gateway(replicas.forward, file, **{"largest": 100, "patience": 0.2, **options})
    app = Starlette(routes=[Route("/{path:path}", gateway.answer, methods=["GET", "POST"])])

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            content = b'{"prompt": "a"}' if method == "POST" else None
            return await client.request(method, path, content=content)

    got = asyncio.run(run())
    assert replicas.closed == len(replicas.calls)
    return got


def test_a_request_and_its_answer_are_passed_on():
    replicas = Replicas(answer([*JSON, (b"x-extra", b"1")], b'{"a":', b" 1}", status=418))
    got = ask(replicas, path="/v1/images/generations?x=1")
    assert (got.status_code, got.json(), got.headers["x-extra"]) == (418, {"a": 1}, "1")
    call = replicas.calls[0]
    assert (call.method, call.path, call.query) == ("POST", "/v1/images/generations", b"x=1")
    assert call.body == b'{"prompt": "a"}'
    assert dict(call.headers)[b"x-request-id"]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_request_whose_replica_is_lost_is_tried_again(before):
    whole = answer(JSON, b'{"a":', b" 1}")
    replicas = Replicas([*whole[:before], ReplicaLostError()], whole)
    got = ask(replicas)
    assert got.json() == {"a": 1}
    assert len(replicas.calls) == 2
    assert (
        dict(replicas.calls[0].headers)[b"x-request-id"] == dict(replicas.calls[1].headers)[b"x-request-id"]
    )


def test_when_every_replica_is_lost_the_client_gets_the_protocols_error():
    replicas = Replicas([ReplicaLostError()])
    got = ask(replicas)
    assert got.status_code == 503
    assert got.json()["error"]["code"] == "unavailable"
    assert got.headers["retry-after"]
    assert got.headers["x-request-id"]
    assert len(replicas.calls) == ATTEMPTS


def test_a_stream_whose_replica_is_lost_ends_with_an_error_event():
    got = ask(Replicas([*answer(EVENTS, b"event: a\n\n"), ReplicaLostError()]))
    assert got.status_code == 200
    first, last = got.text.strip().split("\n\n")
    assert first == "event: a"
    assert json.loads(last.split("data: ")[1])["error"]["code"] == "unavailable"


def test_a_stream_that_has_sent_nothing_is_tried_again():
    whole = answer(EVENTS, b"event: a\n\n", b"event: b\n\n")
    got = ask(Replicas([*whole[:2], ReplicaLostError()], whole))
    assert got.text == "event: a\n\nevent: b\n\n"


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_failure_of_a_replica_is_answered_without_its_details(before):
    got = ask(Replicas([*answer(JSON)[:before], RuntimeError("/secret/path")]))
    assert got.status_code == 500
    assert got.json()["error"]["type"] == "server_error"
    assert "secret" not in got.text


def test_a_full_queue_is_answered_in_the_protocols_shape():
    got = ask(Replicas([RefusedError("the queue is full", "queue_full", 2.0)]))
    assert got.status_code == 429
    assert got.json()["error"] == {
        "message": "the queue is full", "type": "rate_limit_error", "param": None, "code": "queue_full",
    }  # fmt: skip
    assert got.headers["retry-after"] == "2"


def test_no_request_waits_without_end_for_a_replica():
    got = ask(Replicas([None]))
    assert got.status_code == 503
    assert got.json()["error"]["code"] == "unavailable"


def test_a_body_that_is_too_large_is_refused():
    replicas = Replicas()
    assert ask(replicas, largest=3).status_code == 413
    assert replicas.calls == []


def test_files_come_from_the_shared_store():
    files = {"a.png": StoredFile(b"png", "image/png", 0.0)}
    got = ask(Replicas(), "GET", "/files/a.png", files)
    assert (got.content, got.headers["content-type"]) == (b"png", "image/png")
    missing = ask(Replicas(), "GET", "/files/b.png", files)
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"
