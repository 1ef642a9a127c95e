"""A real server in a thread, on a tiny model whose scales a test can hold back."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from openhart.serving.app import create_app
from openhart.serving.model import ServedModel
from openhart.serving.service import Service, ServiceSettings


class GatedModel(ServedModel):
    """A real model; ``gate`` holds back every scale until it is set."""

    def __init__(self, pipeline, **options):
        super().__init__(pipeline, "openhart", "0123456789abcdef", **options)
        self.gate = threading.Event()
        self.gate.set()
        self.batches = []
        self.scales_made = 0
        self.fails = False

    def start(self, requests, seeds):
        self.batches.append(seeds)
        if self.fails:
            raise RuntimeError("/secret/path is broken")
        return self._gated(super().start(requests, seeds))

    def _gated(self, states):
        try:
            for state in states:
                assert self.gate.wait(30)
                self.scales_made += 1
                yield state
        finally:
            states.close()


class Running:
    """A server that answers requests."""

    def __init__(self, address, service, model):
        self.address = address
        self.url = f"http://127.0.0.1:{address[1]}"
        self.service = service
        self.model = model

    @property
    def engine(self):
        return self.service.engine

    def connect(self):
        return socket.create_connection(self.address, timeout=30)


@contextmanager
def running(pipeline, settings=None, **options):
    model = GatedModel(pipeline, **options)
    service = Service(lambda: model, settings or ServiceSettings())
    server = uvicorn.Server(
        uvicorn.Config(create_app(service), port=0, log_config=None, access_log=False, ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started and service.ready, 60)
        yield Running(server.servers[0].sockets[0].getsockname(), service, model)
        wait_for(lambda: service.engine.open_requests == 0, 10)
    finally:
        model.gate.set()
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def wait_for(condition, seconds=10.0):
    """Wait until something holds, in another thread than the server's."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def plain_server(text_pipeline):
    """A server without keys, shared by tests that leave nothing behind."""
    with running(text_pipeline) as server:
        yield server


@pytest.fixture
def serve(text_pipeline):
    """Starts servers of a test's own."""
    return lambda settings=None, **options: running(text_pipeline, settings, **options)
