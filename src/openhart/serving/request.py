"""What the engine is given and what it gives back: requests, tickets, events and refusals."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class ImageRequest:
    """A request for one or several images of one prompt.

    Attributes:
        prompt: the prompt; for a class-conditional model, the number of the class.
        seed: seed of the first image; further images have the following seeds.
        size: height and width in pixels.
        sampling: the complete sampling settings of the pipeline.
        count: number of images.
        negative_prompt: text that guidance steers away from, or None.
        previews: number of scales after which an image is delivered, chosen by :func:`preview_indices`.
        owner: the API key of the client, for limits per key; empty without one.
    """

    prompt: str
    seed: int
    size: tuple[int, int]
    sampling: Any
    count: int = 1
    negative_prompt: str | None = None
    previews: int = 0
    owner: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What the requests of one batch have in common."""
        return self.size, self.negative_prompt, repr(self.sampling)

    def seed_of(self, position: int) -> int:
        """The seed of one of the images, which are numbered from 0."""
        return (self.seed + position) % (LARGEST_SEED + 1)


def preview_indices(wanted: int, scales: int) -> set[int]:
    """Indices of the scales after which an image is delivered; the last scale gives the final image.

    With K + 1 scales and N wanted images, these are round((i + 1) · K / (N + 1)) for i = 0 … N − 1, or all
    scales but the last if N exceeds K.
    """
    last = scales - 1
    if wanted >= last:
        return set(range(last)) if wanted else set()
    return {round((i + 1) * last / (wanted + 1)) for i in range(wanted)}


@dataclass(frozen=True)
class Preview:
    """The image after one scale.

    Attributes:
        scale_index: index of the scale, from 0.
        scales: number of scales.
        image: the image.
    """

    scale_index: int
    scales: int
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """All images of a request, in the order of their seeds."""

    images: list[Image.Image]


class RefusedError(Exception):
    """The engine does not accept a request.

    Args:
        message: one sentence for the client.
        reason: ``queue_full``, ``key_limit``, ``draining`` or ``unavailable``.
        retry_after: seconds after which another attempt is useful.
    """

    def __init__(self, message: str, reason: str, retry_after: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class GenerationError(Exception):
    """Generation of an accepted request failed; the cause is chained."""


class Ticket:
    """An accepted request: an asynchronous iterator of :class:`Preview` and, at the end, :class:`Finished`.

    A client that goes away calls :meth:`close`, which frees the request's places in the queue and in the
    limits.

    Args:
        request: the request.
        on_end: called once, when the request is finished, has failed or is closed.
    """

    def __init__(self, request: ImageRequest, on_end: Callable[["Ticket"], None]) -> None:
        self.request = request
        self.ended = False
        self._on_end = on_end
        self._images: list[Image.Image | None] = [None] * request.count
        self._events: asyncio.Queue[Preview | Finished | Exception] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[Preview | Finished]:
        while True:
            event = await self.next()
            yield event
            if isinstance(event, Finished):
                return

    async def next(self) -> Preview | Finished:
        """Wait for the next event.

        Raises:
            GenerationError: generation failed.
            RefusedError: the engine was stopped before the request was finished.
        """
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def images(self) -> list[Image.Image]:
        """Wait for all images.

        Raises:
            GenerationError: generation failed.
            RefusedError: the engine was stopped before the request was finished.
        """
        async for event in self:
            if isinstance(event, Finished):
                return event.images
        raise AssertionError("a ticket ends with its images or an exception")

    def close(self) -> None:
        """Give up the request; nothing happens if it has ended."""
        if not self.ended:
            self.ended = True
            self._on_end(self)

    def show(self, preview: Preview) -> None:
        """Deliver a preview; nothing happens if the request has ended."""
        if not self.ended:
            self._events.put_nowait(preview)

    def deliver(self, position: int, image: Image.Image) -> None:
        """Deliver one of the images; with the last one, the request is finished."""
        if self.ended:
            return
        self._images[position] = image
        found = [each for each in self._images if each is not None]
        if len(found) == len(self._images):
            self._events.put_nowait(Finished(found))
            self.close()

    def fail(self, error: Exception) -> None:
        """End the request by an exception."""
        if not self.ended:
            self._events.put_nowait(error)
            self.close()


@dataclass(eq=False)
class Job:
    """One image of a request.

    Attributes:
        ticket: of the request.
        position: number of the image within the request.
        since: time at which it was accepted.
        shown: indices of the scales whose image was delivered.
    """

    ticket: Ticket
    position: int
    since: float
    shown: set[int] = field(default_factory=set)

    @property
    def seed(self) -> int:
        """Seed of the image."""
        return self.ticket.request.seed_of(self.position)

    def wants(self, index: int, count: int) -> bool:
        """Whether the image of a state is to be delivered, by the index and the number of states."""
        wanted = preview_indices(self.ticket.request.previews, count)
        return index in wanted and index not in self.shown and not self.ticket.ended
