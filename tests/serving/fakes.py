"""A model whose scales a test releases one by one, and helpers for engines without HTTP."""

import asyncio
import threading
from dataclasses import dataclass

from PIL import Image

from openhart.serving.engine import Engine, Limits
from openhart.serving.request import ImageRequest

SCALES = 4


@dataclass(frozen=True)
class FakeState:
    index: int
    count: int
    values: list[int]


class FakeModel:
    """Makes grey images whose level is the seed; ``gate`` holds back every scale until it is set."""

    def __init__(self, fails_on: str = "never") -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.finished_scales = 0
        self.closed = 0
        self.fails_on = fails_on

    def start(self, requests, seeds):
        self.batches.append(seeds)
        if any(request.prompt == self.fails_on for request in requests):
            raise RuntimeError("/secret/path: this prompt breaks the pipeline")
        return self.states(seeds)

    def states(self, seeds):
        try:
            for index in range(SCALES):
                assert self.gate.wait(20)
                self.finished_scales += 1
                yield FakeState(index, SCALES, seeds)
        finally:
            self.closed += 1

    def decode(self, state, rows):
        return [Image.new("RGB", (8, 8), (state.values[row], state.index, 0)) for row in rows]

    decode_previews = decode

    def batch_limit(self, request, most):
        return most


def asked(seed=0, **values):
    defaults = {"prompt": "a cat", "size": (8, 8), "sampling": "plain"}
    return ImageRequest(**{**defaults, **values}, seed=seed)


def level(image):
    """Seed and last scale of a fake image."""
    return image.getpixel((0, 0))[:2]


def with_engine(model, test, limits=None, seconds=30):
    """Run an asynchronous test with an engine, within a time limit."""

    async def run():
        engine = Engine(model, limits or Limits())
        engine.start()
        try:
            async with asyncio.timeout(seconds):
                await test(engine)
        finally:
            if isinstance(model, FakeModel):
                model.gate.set()
            await engine.stop()
        assert engine.open_requests == 0
        assert engine.waiting == 0

    asyncio.run(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)
