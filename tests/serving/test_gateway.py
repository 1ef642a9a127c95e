"""The gateway without Ray: lost replicas, full queues, streams and files, with scripted replicas."""

import asyncio
import json

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route

from openhart.serving.files import StoredFile
from openhart.serving.gateway import ACCEPTED, ATTEMPTS, Gateway, ReplicaLostError
from openhart.serving.metrics import Metrics
from openhart.serving.replica_metrics import MetricsBoard
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


def ask(replicas, method="POST", path="/v1/images/generations", **options):
    return talk(replicas, (method, path), **options)[0]


def talk(replicas, *requests, files=None, reported=None, **options):
    async def file(name):
        return (files or {}).get(name)

    async def reports():
        return reported or {}

    gateway = Gateway(replicas.forward, file, reports, **{"largest": 100, "patience": 0.2, **options})
    app = Starlette(routes=[Route("/{path:path}", gateway.answer, methods=["GET", "POST"])])

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            bodies = {"POST": b'{"prompt": "a"}'}
            return [
                await client.request(method, path, content=bodies.get(method)) for method, path in requests
            ]

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
    got = ask(Replicas(), "GET", "/files/a.png", files=files)
    assert (got.content, got.headers["content-type"]) == (b"png", "image/png")
    missing = ask(Replicas(), "GET", "/files/b.png", files=files)
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"


def test_measurements_are_those_of_all_replicas_and_of_the_gateway():
    reported = {}
    for name, images in (("one", 2), ("two", 3)):
        metrics = Metrics()
        metrics.images.inc(images)
        metrics.answered("/v1/images/generations", 200, 0.3)
        reported[name], _ = metrics.exposition()
    refused = RefusedError("the queue is full", "queue_full", 2.0)
    replicas = Replicas([refused], [ReplicaLostError()], answer(JSON, b"{}"))
    post = ("POST", "/v1/images/generations")
    got = talk(replicas, post, post, ("GET", "/metrics"), reported=reported)[-1]
    assert got.headers["content-type"].startswith("text/plain")
    values = {
        (sample.name, *(sample.labels.get(label) for label in ("replica", "status", "reason"))): sample.value
        for family in text_string_to_metric_families(got.text)
        for sample in family.samples
    }
    assert values["openhart_images_total", "one", None, None] == 2
    assert values["openhart_images_total", "two", None, None] == 3
    assert values["openhart_request_seconds_count", "one", None, None] == 1
    assert values["openhart_requests_total", "two", "200", None] == 1
    assert values["openhart_requests_total", "gateway", "429", None] == 1
    assert values["openhart_requests_rejected_total", "gateway", None, "queue_full"] == 1
    assert values["openhart_replicas_lost_total", "gateway", None, None] == 1
    kinds = [line for line in got.text.splitlines() if line.startswith("# TYPE openhart_images_total ")]
    assert kinds == ["# TYPE openhart_images_total counter"]


def test_a_replica_that_reports_no_longer_is_forgotten():
    now = [0.0]
    board = MetricsBoard(seconds=10, clock=lambda: now[0])
    board.put("one", b"1")
    now[0] = 6.0
    board.put("two", b"2")
    assert board.reports() == {"one": b"1", "two": b"2"}
    now[0] = 11.0
    assert board.reports() == {"two": b"2"}
