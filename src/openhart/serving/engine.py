"""The engine of the service: a bounded queue of images, which one worker thread generates in batches.

Requests of equal size and settings are generated together, and each image depends only on its own seed, so a
request gets the images that it would get alone. All scales of a batch run in lockstep: a request joins a
batch only at its start. The worker computes a whole batch without waiting for the event loop, which may be
busy with clients, and leaves to it whatever changes the queue or a request, so nothing is locked.
"""

import asyncio
import logging
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from openhart.serving.metrics import Metrics
from openhart.serving.request import (
    GenerationError,
    ImageRequest,
    Job,
    Preview,
    RefusedError,
    Ticket,
)

LOG = logging.getLogger(__name__)
LONGEST_RETRY = 60.0  # seconds; clients of the protocol wait exactly as long as the answer states


class StreamingModel(Protocol):
    """What the engine needs of a model; it is called in the worker thread."""

    def start(self, requests: list[ImageRequest], seeds: list[int]) -> Iterator[Any]:
        """Begin a batch of one image per request, all of the same key.

        Yields the state after each scale, with its ``index`` and the ``count`` of all.
        """

    def decode(self, state: Any, rows: list[int]) -> list[Image.Image]:
        """Decode the images of some rows of a state."""

    def decode_previews(self, state: Any, rows: list[int]) -> list[Image.Image]:
        """As :meth:`decode`, for images that are shown until the next one comes: faster, less precise."""

    def batch_limit(self, request: ImageRequest, most: int) -> int:
        """Number of such images that fit into memory together, from 1 to ``most``."""


@dataclass(frozen=True)
class Limits:
    """Limits of the engine.

    Attributes:
        queue: images that may wait.
        batch: images of one batch.
        per_key: images of one API key that may wait or run; None for no limit.
        company_seconds: time that the first request of an idle engine waits for others.
    """

    queue: int = 64
    batch: int = 8
    per_key: int | None = None
    company_seconds: float = 0.01


class Engine:
    """Generates the images of requests in batches.

    Args:
        model: the model.
        limits: of queue, batches and keys.
        metrics: where the engine counts and measures.
    """

    def __init__(
        self, model: StreamingModel, limits: Limits | None = None, metrics: Metrics | None = None
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self.draining = False
        self.seconds_per_image = 0.2
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._owners: Counter[str] = Counter()
        self._open: set[Ticket] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._task = asyncio.create_task(self._work())
        self.metrics.observe_engine(self)

    @property
    def alive(self) -> bool:
        """Whether the engine works."""
        return self._task is not None and not self._task.done()

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Images that are being generated for clients that still want them."""
        return sum(not job.ticket.ended for job in self._running)

    @property
    def open_requests(self) -> int:
        """Requests that wait or run."""
        return len(self._open)

    def submit(self, request: ImageRequest) -> Ticket:
        """Accept a request, or refuse it at once.

        Raises:
            RefusedError: the queue or the share of the key is full, or the engine accepts nothing any more.
        """
        self.check(request)
        ticket = Ticket(request, self._end)
        now = time.monotonic()
        for position in range(request.count):
            self._waiting.append(Job(ticket, position, now))
        self._open.add(ticket)
        self._owners[request.owner] += request.count
        self._changed.set()
        return ticket

    def check(self, request: ImageRequest) -> None:
        """Refuse a request for which there is no place at present.

        Raises:
            RefusedError: as :meth:`submit`.
        """
        if self.draining:
            self._refuse("the server is shutting down", "draining", 5.0)
        if not self.alive:
            self._refuse("the server cannot generate images at present", "unavailable", 5.0)
        wait = self.waiting * self.seconds_per_image
        if self.waiting + request.count > self.limits.queue:
            self._refuse(
                f"the queue is full: {self.waiting} images are waiting, and at most {self.limits.queue} may "
                "wait; try again later",
                "queue_full",
                wait,
            )
        share, own = self.limits.per_key, self._owners[request.owner]
        if share is not None and request.owner and own + request.count > share:
            self._refuse(
                f"this API key has {own} images waiting or running and may have at most {share}; try again "
                "when they are finished",
                "key_limit",
                max(own * self.seconds_per_image, wait),
            )

    def _refuse(self, message: str, why: str, seconds: float) -> None:
        self.metrics.rejected(why)
        spread = random.uniform(1.0, 1.3)  # clients wait exactly this long and would return together
        raise RefusedError(message, why, min(LONGEST_RETRY, max(1.0, math.ceil(seconds) * spread)))

    def _end(self, ticket: Ticket) -> None:
        """Free the places of a request that is finished or given up."""
        self._open.discard(ticket)
        self._owners[ticket.request.owner] -= ticket.request.count
        if self._owners[ticket.request.owner] <= 0:
            del self._owners[ticket.request.owner]
        self._waiting = deque(job for job in self._waiting if job.ticket is not ticket)
        self._changed.set()

    async def drain(self, seconds: float) -> bool:
        """Accept nothing more and finish what waits and runs.

        Args:
            seconds: time limit.

        Returns:
            whether everything was finished in time; what was not is left to :meth:`stop`.
        """
        self.draining = True
        until = time.monotonic() + seconds
        while self._open and self.alive and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return not self._open

    async def stop(self) -> None:
        """End all requests by an exception, and stop after the scale that is being computed."""
        self.draining = self._stopping = True
        for ticket in list(self._open):
            ticket.fail(RefusedError("the server is shutting down", "draining", 5.0))
        self._changed.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._worker.shutdown(wait=False)

    async def _work(self) -> None:
        while not self._stopping:
            if not self._waiting:
                self._changed.clear()
                await self._changed.wait()
                await self._wait_for_company()
                continue
            self._running = self._take()
            try:
                await self._generate(self._running)
            finally:
                self._running = []

    async def _wait_for_company(self) -> None:
        until = time.monotonic() + self.limits.company_seconds
        while len(self._waiting) < self.limits.batch and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.002))

    def _take(self) -> list[Job]:
        """Take the oldest image and those of the same key, up to the largest batch, from the queue."""
        request = self._waiting[0].ticket.request
        most = self.model.batch_limit(request, self.limits.batch)
        taken: list[Job] = []
        left: deque[Job] = deque()
        for job in self._waiting:
            fits = len(taken) < most and job.ticket.request.key == request.key
            (taken if fits else left).append(job)
        self._waiting = left
        return taken

    async def _generate(self, jobs: list[Job]) -> None:
        """Generate a batch; if it fails, each of its images alone, so that one does not harm the others."""
        begin = time.monotonic()
        try:
            await self._run(jobs)
        except Exception as error:  # the engine survives whatever a pipeline raises
            if len(jobs) > 1:
                for job in jobs:
                    if not job.ticket.ended:
                        await self._generate([job])
                return
            LOG.exception("generation failed")
            failure = GenerationError("generation failed")
            failure.__cause__ = error
            jobs[0].ticket.fail(failure)
            return
        each = (time.monotonic() - begin) / len(jobs)
        self.seconds_per_image += 0.2 * (each - self.seconds_per_image)

    async def _run(self, jobs: list[Job]) -> None:
        self.metrics.batch_began(time.monotonic() - job.since for job in jobs)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._worker, self._compute, jobs, loop.call_soon_threadsafe)

    def _compute(self, jobs: list[Job], post: Callable[..., Any]) -> None:
        """Generate a batch in the worker thread, without waiting for the event loop.

        Args:
            jobs: images of the batch; computation stops after the present scale when nobody wants them.
            post: has the event loop call a function with the arguments that follow.
        """
        states = self.model.start([job.ticket.request for job in jobs], [job.seed for job in jobs])
        state, begin = None, time.monotonic()
        try:
            for state in states:
                self.metrics.scale_took(state.index, time.monotonic() - begin)
                rows = [row for row, job in enumerate(jobs) if job.wants(state.index, state.count)]
                for job, image in self._wanted(jobs, rows, self.model.decode_previews, state):
                    self.metrics.preview_shown(not job.shown, job.since)
                    job.shown.add(state.index)
                    post(job.ticket.show, Preview(state.index, state.count, image))
                if all(job.ticket.ended for job in jobs):
                    return
                begin = time.monotonic()
        finally:
            getattr(states, "close", lambda: None)()
        rows = [row for row, job in enumerate(jobs) if not job.ticket.ended]
        for job, image in self._wanted(jobs, rows, self.model.decode, state):
            self.metrics.images.inc()
            post(job.ticket.deliver, job.position, image)

    @staticmethod
    def _wanted(
        jobs: list[Job], rows: list[int], decode: Callable[[Any, list[int]], list[Image.Image]], state: Any
    ) -> Iterator[tuple[Job, Image.Image]]:
        """Those jobs of the rows that are still wanted after decoding, each with its image."""
        images = decode(state, rows) if rows else []
        for row, image in zip(rows, images, strict=True):
            if not jobs[row].ticket.ended:
                yield jobs[row], image
