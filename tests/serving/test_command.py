"""``openhart serve`` as a user runs it."""

import base64
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from openhart.cli import main
from tests.serving.conftest import wait_for
from tests.serving.test_clients import difference


class Command:
    """A running ``openhart serve``."""

    def __init__(self, model, tmp_path, *options):
        self.log = tmp_path / "stderr.txt"
        words = [sys.executable, "-m", "openhart", "serve", "--port", "0", "--model", str(model), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)

    def __enter__(self):
        self.first = self.process.stdout.readline()
        self.url = re.search(r"http://[\d.:]+", self.first)[0]
        self.ready = self.process.stdout.readline()
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.stdout.close()

    def post(self, **body):
        return httpx.post(f"{self.url}/v1/images/generations", json=body, timeout=120)


@pytest.mark.slow
def test_it_answers_and_finishes_its_requests_after_sigterm(text_model, tmp_path):
    with Command(text_model, tmp_path, "--max-batch", "1") as command, ThreadPoolExecutor() as pool:
        assert "no API key is needed; no safety checker is active" in command.first
        assert "ready" in command.ready
        entry = command.post(prompt="a cat", seed=3, top_k=7).json()["data"][0]
        assert entry["seed"] == 3
        answers = [pool.submit(command.post, prompt="a cat", n=10) for _ in range(4)]
        wait_for(lambda: "openhart_requests_open 4.0" in httpx.get(f"{command.url}/metrics").text, 60)
        command.process.send_signal(signal.SIGTERM)
        assert [len(answer.result().json()["data"]) for answer in answers] == [10] * 4
        assert command.process.wait(60) == 0
    text = command.log.read_text()
    assert "Traceback" not in text
    assert "a cat" not in text
    served, again = tmp_path / "served.png", tmp_path / "again.png"
    served.write_bytes(base64.b64decode(entry["b64_json"]))
    words = ["generate", "--like", served, "--model", text_model, "-o", again, "--quiet"]
    assert main(list(map(str, words))) == 0
    assert difference(Image.open(served), Image.open(again)) <= 1


@pytest.mark.slow
def test_what_does_not_finish_in_time_is_ended(text_model, tmp_path):
    options = ("--max-batch", "1", "--max-queue", "1000", "--drain-seconds", "0.2")
    with Command(text_model, tmp_path, *options) as command, ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(command.post, prompt="a cat", n=10) for _ in range(40)]
        wait_for(lambda: "openhart_requests_open 40.0" in httpx.get(f"{command.url}/metrics").text, 60)
        command.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert command.process.wait(60) == 0
        assert time.monotonic() - begin < 30
        statuses = {answer.result().status_code for answer in answers}
    assert statuses <= {200, 503}
    assert 503 in statuses
    assert "Traceback" not in command.log.read_text()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_sentence(tmp_path):
    words = [sys.executable, "-m", "openhart", "serve", "--port", "0", "--model", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("openhart: ")
    assert "model_index.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_are_one_sentence(capsys, monkeypatch):
    monkeypatch.setenv("OPENHART_API_KEY", "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong = [
            (["--port", str(taken.getsockname()[1])], 1, "cannot listen on 127.0.0.1"),
            (["--safety", "no_such_module:check"], 1, "cannot load the safety checker"),
            (["--safety", "json:__name__"], 1, "must be a function"),
            (["--api-key", "zwei Wörter"], 2, "ASCII characters without spaces"),
        ]
        for words, status, sentence in wrong:
            assert main(["serve", *words]) == status
            assert sentence in capsys.readouterr().err
