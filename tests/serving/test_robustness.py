"""Clients that send nonsense, go away, do not read, or come in too great numbers."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from openhart.serving.engine import Limits
from openhart.serving.service import ServiceSettings
from tests.serving.conftest import wait_for

PATH = "/v1/images/generations"
JSON = {"Content-Type": "application/json"}


def request_bytes(body, **headers):
    """A raw request, for clients that stop in its middle."""
    body = json.dumps(body).encode()
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def error_of(answer):
    """The error of an answer, in the protocol's shape and without anything of the server's inside."""
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return error


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"a"', b"null", b"{", b'{"prompt": "a", "n": NaN}', b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "negative_prompt": "\\udfff"}', b'{"prompt": "a", "n": true}', b"\xff\xfe{}",
        b'{"prompt": "a", "n": 1.5}', b'{"prompt": "a", "size": "1000000000x16"}', b'{"prompt": 1}',
        b'{"prompt": "a", "seed": -1}', b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}",
        b'{"prompt": "a", "top_k": [[]]}', b'{"prompt": "a", "keep_ratios": "x"}', b'{"prompt": {"a": "b"}}',
        b'{"prompt": "a", "guidance_scale": 1e999}', b'{"prompt": "a", "size": "\xd9\xa1x\xd9\xa1"}',
        b'{"prompt": "a", "prompt\\u0000": 1}',
        b'{"prompt": "a", "last_scale_steps": 2, "keep_ratios": [0.5]}',
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
def test_a_malformed_body_is_a_bad_request(plain_server, body):
    answer = httpx.post(plain_server.url + PATH, content=body, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_other_media_types_are_refused(plain_server, kind):
    answer = httpx.post(plain_server.url + PATH, content=b'{"prompt": "a"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert "application/json" in error_of(answer)["message"]


def test_a_body_that_is_too_large_is_refused(plain_server):
    def endless():
        for _ in range(48):
            yield b" " * 2**16

    for content in (b" " * (2**20 + 1), endless()):
        answer = httpx.post(plain_server.url + PATH, content=content, headers=JSON)
        assert answer.status_code == 413
        assert "1048576 bytes" in error_of(answer)["message"]


def test_a_body_without_end_is_cut_off(plain_server):
    with plain_server.connect() as client:
        head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        with pytest.raises(OSError, match=r"reset|pipe"):
            client.sendall(chunk * 200)


def test_wrong_paths_and_methods_have_the_protocols_errors(plain_server):
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", PATH, 405), ("PUT", "/v1/models", 405)):
        answer = httpx.request(method, plain_server.url + path)
        assert answer.status_code == status
        assert path in error_of(answer)["message"] or method in error_of(answer)["message"]


def test_the_callers_request_id_is_kept_if_it_is_sane(plain_server):
    url = plain_server.url + "/health"
    assert httpx.get(url, headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert httpx.get(url, headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_pages_of_other_sites_are_refused_unless_they_are_permitted(plain_server, serve):
    body, origin = {"prompt": "a cat"}, {"Origin": "https://example.org"}
    refused = httpx.post(plain_server.url + PATH, json=body, headers=origin)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "foreign_origin")
    own = httpx.post(plain_server.url + PATH, json=body, headers={"Origin": plain_server.url})
    assert own.status_code == 200
    with serve(ServiceSettings(cors_origins=("https://example.org",))) as server:
        asked = {**origin, "Access-Control-Request-Method": "POST"}
        asked |= {"Access-Control-Request-Headers": "authorization, x-stainless-os"}
        before = httpx.options(server.url + PATH, headers=asked)
        assert before.headers["access-control-allow-origin"] == "https://example.org"
        assert httpx.post(server.url + PATH, json=body, headers=origin).status_code == 200


def test_health_answers_while_images_are_made(serve):
    with serve() as server, server.connect() as client:
        server.model.gate.clear()
        client.sendall(request_bytes({"prompt": "a cat"}))
        wait_for(lambda: server.engine.running)
        begin = time.monotonic()
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            assert httpx.get(server.url + path).status_code == 200
        assert time.monotonic() - begin < 5
        server.model.gate.set()
        assert client.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_generation(serve, stream):
    with serve() as server:
        server.model.gate.clear()
        before = server.model.scales_made
        with server.connect() as client:
            client.sendall(request_bytes({"prompt": "a cat", "stream": stream, "partial_images": 3 * stream}))
            wait_for(lambda: server.engine.running)
        wait_for(lambda: server.engine.running == 0)
        server.model.gate.set()
        answer = httpx.post(server.url + PATH, json={"prompt": "a dog"})
        assert answer.status_code == 200
        assert server.model.scales_made == before + 1 + 4
        assert "openhart_requests_cancelled_total 1.0" in httpx.get(server.url + "/metrics").text


def test_a_client_that_leaves_the_queue_frees_its_place(serve):
    with serve(ServiceSettings(limits=Limits(queue=1))) as server, server.connect() as first:
        server.model.gate.clear()
        first.sendall(request_bytes({"prompt": "a cat"}))
        wait_for(lambda: server.engine.running)
        with server.connect() as second:
            second.sendall(request_bytes({"prompt": "a cat"}))
            wait_for(lambda: server.engine.waiting)
            assert httpx.post(server.url + PATH, json={"prompt": "a dog"}).status_code == 429
        wait_for(lambda: server.engine.waiting == 0)
        with ThreadPoolExecutor() as pool:
            third = pool.submit(httpx.post, server.url + PATH, json={"prompt": "a dog"}, timeout=30)
            wait_for(lambda: server.engine.waiting)
            server.model.gate.set()
            assert third.result().status_code == 200
        assert first.recv(100).startswith(b"HTTP/1.1 200")


def test_clients_that_leave_in_the_middle_of_their_request_are_forgotten(plain_server):
    whole = request_bytes({"prompt": "a cat"})
    for length in (10, len(whole) // 2, len(whole) - 1):
        with plain_server.connect() as client:
            client.sendall(whole[:length])
    assert httpx.get(plain_server.url + "/ready").status_code == 200
    assert plain_server.engine.open_requests == 0


def test_a_slow_reader_holds_nobody_back(serve):
    with serve() as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(server.address)
        slow.sendall(request_bytes({"prompt": "a cat", "n": 10}))
        wait_for(lambda: server.engine.open_requests)
        wait_for(lambda: not server.engine.open_requests)
        assert httpx.post(server.url + PATH, json={"prompt": "a dog"}, timeout=30).status_code == 200
        slow.settimeout(20)
        received = b""
        while b'"total_tokens"' not in received:
            received += slow.recv(1000)
        slow.close()


def test_keys_have_a_share_of_the_queue(serve):
    settings = ServiceSettings(keys=("one", "two"), limits=Limits(per_key=1))
    with serve(settings) as server, server.connect() as client:
        server.model.gate.clear()
        client.sendall(request_bytes({"prompt": "a cat"}, Authorization="Bearer one"))
        wait_for(lambda: server.engine.running)
        again = httpx.post(server.url + PATH, json={"prompt": "a"}, headers={"Authorization": "Bearer one"})
        assert (again.status_code, error_of(again)["code"]) == (429, "key_limit")
        assert int(again.headers["retry-after"]) >= 1
        server.model.gate.set()
        other = httpx.post(server.url + PATH, json={"prompt": "a"}, headers={"Authorization": "Bearer two"})
        assert other.status_code == 200


def test_many_clients_at_once_are_served_or_refused(serve):
    def ask(seed):
        return httpx.post(server.url + PATH, json={"prompt": "a cat", "seed": seed}, timeout=60).status_code

    with serve(ServiceSettings(limits=Limits(queue=8, batch=4))) as server, ThreadPoolExecutor(40) as pool:
        statuses = list(pool.map(ask, range(40)))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 8
        assert max(map(len, server.model.batches)) <= 4


def test_a_draining_server_finishes_and_refuses(serve):
    import asyncio

    with serve() as server, server.connect() as client:
        server.model.gate.clear()
        client.sendall(request_bytes({"prompt": "a cat", "stream": True}))
        wait_for(lambda: server.engine.running)
        server.engine.draining = True
        for answer in (httpx.post(server.url + PATH, json={"prompt": "a"}), httpx.get(server.url + "/ready")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(server.url + "/health").status_code == 200
        server.model.gate.set()
        received = b""
        while b"image_generation.completed" not in received:
            received += client.recv(10_000)
        assert asyncio.run(server.engine.drain(5))
