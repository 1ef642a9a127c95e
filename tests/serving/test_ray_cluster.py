"""``openhart serve --ray-address`` on a running cluster, under load: more replicas, and a new version."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec

import httpx
import pytest

from tests.serving.ray_help import SURROUNDINGS, accepts, free_port, image, replica_processes, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]


@pytest.fixture(scope="module")
def cluster(text_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    ray_port, port = free_port(), free_port()
    surroundings = os.environ | SURROUNDINGS
    start = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    start += ["start", "--head", "--block", "--port", str(ray_port), "--num-cpus", "4"]
    start += ["--include-dashboard", "false", "--object-store-memory", str(200 * 2**20)]
    deploy = [sys.executable, "-m", "openhart", "serve", "--ray-address", f"127.0.0.1:{ray_port}"]
    deploy += ["--port", str(port), "--model", str(text_model), "--min-replicas", "1", "--max-replicas", "2"]
    deploy += ["--cpus-per-replica", "1", "--max-batch", "1"]
    with (folder / "log.txt").open("wb") as log:
        head = subprocess.Popen(start, stdout=log, stderr=log, env=surroundings)

    def put(*words):
        done = subprocess.run(
            [*deploy, *words], capture_output=True, text=True, env=surroundings, timeout=300, check=False
        )
        assert "ready" in done.stdout, done.stderr[-2000:]

    try:
        wait_until(lambda: accepts(ray_port))
        put()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            client.process, client.deploy = head, put
            yield client
    finally:
        head.terminate()
        head.wait(120)


@contextmanager
def load(server, requests_at_once, **body):
    """Send requests without a pause, as many at once as given; yields the answers so far."""
    answers, over = [], threading.Event()

    def send():
        while not over.is_set():
            answers.append(image(server, **body))

    senders = [threading.Thread(target=send) for _ in range(requests_at_once)]
    for sender in senders:
        sender.start()
    try:
        yield answers
    finally:
        over.set()
        for sender in senders:
            sender.join()


def test_replicas_are_added_under_load_and_those_that_work_stay(cluster):
    before = replica_processes(cluster.process)
    assert len(before) == 1
    with load(cluster, 6, residual_steps=400) as answers:
        wait_until(lambda: len(replica_processes(cluster.process)) == 2)
        sent = len(answers)
        wait_until(lambda: len(answers) >= sent + 20)
        assert before[0] in replica_processes(cluster.process)
    assert {answer.status_code for answer in answers} == {200}


def test_a_new_version_under_load_replaces_the_replica_and_loses_no_request(cluster):
    before = replica_processes(cluster.process)
    with load(cluster, 2) as answers:
        cluster.deploy("--max-queue", "9")
        sent = len(answers)
        wait_until(lambda: len(answers) >= sent + 4)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    wait_until(lambda: not set(before) & set(replica_processes(cluster.process)))
