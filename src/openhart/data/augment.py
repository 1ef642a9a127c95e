"""Copies of a picture that mean the same: mirrored, shifted, larger or smaller, on its own background."""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from openhart.randomness import mixed_generator

SIDES = re.compile(r"\b(left|right|clockwise|anticlockwise|counterclockwise)\b", re.IGNORECASE)


class AugmentedCopies(Dataset[Any]):
    """Each sample of a data set several times: as it is, then changed in ways that are drawn.

    What a copy looks like depends on its index alone, so that encoded copies, resumed runs and several
    processes have the same ones. Copies of a sample follow each other, so that a cache holds their captions
    once.

    Args:
        dataset: map-style, of images (3, H, W) in [−1, 1] and records.
        copies: how often each sample comes, itself included.
        mirror: mirror half of the copies, where :func:`may_mirror` allows it.
        shift: largest shift in each direction, as a share of the side.
        scale: smallest and largest factor of size.
    """

    def __init__(
        self, dataset: Any, copies: int, mirror: bool, shift: float, scale: tuple[float, float]
    ) -> None:
        self.dataset, self.copies = dataset, copies
        self.mirror, self.shift, self.scale = mirror, shift, scale

    def __len__(self) -> int:
        return len(self.dataset) * self.copies

    @property
    def records(self) -> list[dict[str, Any]] | None:
        """What is known of the samples before they are read, once each; None if nothing is."""
        return getattr(self.dataset, "records", None)

    def bucket(self, index: int) -> Any:
        """The size of a sample, if the data set has several."""
        here = index // self.copies
        return self.dataset.bucket(here) if hasattr(self.dataset, "bucket") else None

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        place, copy = divmod(index, self.copies)
        image, record = self.dataset[place]
        if copy == 0:
            return image, record
        generator = mixed_generator(copy, place)
        flip, up, across, size = torch.rand(4, generator=generator).tolist()
        if self.mirror and flip < 0.5 and may_mirror(record):
            image = image.flip(-1)
        low, high = (math.log(factor) for factor in self.scale)
        shift = (self.shift * (2 * up - 1), self.shift * (2 * across - 1))
        return moved(image, math.exp(low + size * (high - low)), shift), record


def may_mirror(record: dict[str, Any]) -> bool:
    """Whether a sample means the same in a mirror: unless its record says ``mirror: false`` or one of its
    captions names a side."""
    captions = [*record.get("captions", ()), record.get("text") or ""]
    return bool(record.get("mirror", True)) and not any(SIDES.search(caption) for caption in captions)


def moved(image: Tensor, factor: float, shift: tuple[float, float]) -> Tensor:
    """An image resized about its centre, then shifted, on its own background; what leaves the frame is lost.

    Args:
        image: (3, H, W) in [−1, 1].
        factor: of size.
        shift: down and to the right, as shares of height and width.

    Returns:
        (3, H, W) in [−1, 1].
    """
    height, width = image.shape[1:]
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    if size != (height, width):
        image = F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0].clamp(-1, 1)
    canvas = background(image)[:, None, None].expand(-1, height, width).clone()
    places = [
        _overlap(side, full, round((full - side) / 2 + full * share))
        for side, full, share in zip(size, (height, width), shift, strict=True)
    ]
    (rows, from_rows), (columns, from_columns) = places
    canvas[:, rows, columns] = image[:, from_rows, from_columns]
    return canvas


def background(image: Tensor) -> Tensor:
    """The colour of an image's edge, (3, H, W) → (3,): the median of each channel."""
    edge = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
    return torch.cat(edge, dim=1).median(dim=1).values


def _overlap(side: int, full: int, start: int) -> tuple[slice, slice]:
    """Where a stretch of ``side`` that begins at ``start`` lies in ``full``, and which part of it does."""
    first, last = max(start, 0), min(start + side, full)
    return slice(first, last), slice(first - start, last - start)
