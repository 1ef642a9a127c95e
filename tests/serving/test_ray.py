"""``openhart serve --ray`` with two replicas on this machine: images, streams, files, a lost replica."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from openhart.serving.replica_metrics import REPORT_SECONDS
from tests.serving.ray_help import (
    GENERATIONS,
    SURROUNDINGS,
    free_port,
    image,
    processes,
    replica_processes,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]


@pytest.fixture(scope="module")
def server(text_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    port = free_port()
    words = [sys.executable, "-m", "openhart", "serve", "--ray", "--port", str(port)]
    words += ["--model", str(text_model), "--min-replicas", "2", "--cpus-per-replica", "1"]
    words += ["--max-queue", "6", "--max-batch", "2"]
    with (folder / "stderr.txt").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | SURROUNDINGS
        )
    line = process.stdout.readline()
    assert "ready" in line, (folder / "stderr.txt").read_text()[-2000:]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        client.process = process
        yield client
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    process.stdout.close()


def test_two_replicas_give_the_same_image_and_the_protocols_errors(server):
    assert len(replica_processes(server.process)) == 2
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: image(server), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    wrong = image(server, colour="red")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "unknown_parameter")
    assert server.get("/nothing").json()["error"]["type"] == "invalid_request_error"
    for path in ("/health", "/ready", "/v1/models", "/"):
        assert server.get(path).status_code == 200


def test_a_stream_passes_the_proxy_event_by_event(server):
    body = {"prompt": "a cat", "seed": 1, "stream": True, "partial_images": 2}
    with server.stream("POST", GENERATIONS, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    kinds = [event["type"].removeprefix("image_generation.") for event in events]
    assert kinds == ["partial_image", "partial_image", "completed"]
    assert events[-1]["b64_json"] == image(server).json()["data"][0]["b64_json"]


def test_a_stored_image_is_found_whichever_replica_made_it(server):
    for _ in range(4):
        address = image(server, response_format="url").json()["data"][0]["url"]
        assert server.get(address).headers["content-type"] == "image/png"


def test_too_many_requests_are_refused_in_the_protocols_shape(server):
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda seed: image(server, seed=seed, n=2), range(40)))
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "queue_full"
            assert float(answer.headers["retry-after"]) > 0


def test_measurements_are_those_of_both_replicas(server):
    before = settled(lambda: images_by_replica(server))
    assert len(before) == 2
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: image(server, seed=seed), range(8)))
    after = settled(lambda: images_by_replica(server))
    assert before.keys() == after.keys()
    assert sum(after.values()) == sum(before.values()) + 8


def test_measurements_and_files_come_back_when_their_processes_are_lost(server):
    for name in ("ray::MetricsBoard", "ray::FileStore"):
        victims = processes(server.process, name)
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
    wait_until(lambda: server.get("/metrics").status_code == 200 and len(images_by_replica(server)) == 2)

    def stored():
        address = image(server, response_format="url").json()["data"][0]["url"]
        return server.get(address).status_code == 200

    wait_until(stored)


def images_by_replica(server):
    families = text_string_to_metric_families(server.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {each.labels["replica"]: each.value for each in samples if each.name == "openhart_images_total"}


def settled(read):
    """What is read once every replica has reported since the last request."""
    time.sleep(3 * REPORT_SECONDS)
    return read()


def test_no_request_is_lost_with_a_replica(server):
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(image, server, residual_steps=400) for _ in range(5)]
        victim = replica_processes(server.process)[0]
        os.kill(victim, signal.SIGKILL)
        answers = [each.result() for each in running]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert sum(answer.status_code == 200 for answer in answers) >= 3
    for answer in answers:
        assert ("data" in answer.json()) or answer.json()["error"]["code"] == "unavailable"
    assert image(server).status_code == 200


def test_replicas_for_which_there_is_no_room_are_refused(text_model):
    words = [sys.executable, "-m", "openhart", "serve", "--ray", "--port", str(free_port())]
    words += ["--model", str(text_model), "--min-replicas", "999", "--cpus-per-replica", "2"]
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | SURROUNDINGS, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "999 replicas need 1998 CPU (there are " in done.stderr
    assert "lower --min-replicas" in done.stderr


def test_what_is_missing_is_named():
    from openhart.serving.ray_app import Scale
    from openhart.serving.ray_run import missing_resources

    scale = Scale(least=2, most=3, cpus=2, gpus=0.5)
    assert missing_resources(scale, {"CPU": 4.0, "GPU": 1.0}) == ""
    assert missing_resources(scale, {"CPU": 2.0}) == "4 CPU (there are 2) and 1 GPU (there are 0)"
