"""Data augmentation that keeps the meaning: mirrored, shifted and resized copies on the same background."""

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import data

from openhart.data.aspect import Size
from openhart.data.sample import Dataset, Sample
from openhart.randomness import mixed_generator

SIDES = re.compile(r"\b(left|right|clockwise|anticlockwise|counterclockwise)\b", re.IGNORECASE)


class AugmentedCopies(data.Dataset[Any]):
    """Each sample of a data set several times: unchanged, then with random changes.

    The changes of a copy depend only on its index, so they are the same in encoded copies, resumed runs and
    all processes. The copies of a sample are consecutive, so that a cache stores their captions once.

    Args:
        dataset: images (3, H, W) in [−1, 1].
        copies: number of copies per sample, including the unchanged one.
        mirror: mirror a copy with probability 0.5 where :func:`may_mirror` allows it.
        shift: largest shift in each direction, as a fraction of the side.
        scale: smallest and largest scale factor; the factor is drawn log-uniformly between them.
    """

    def __init__(
        self, dataset: Dataset[Tensor], copies: int, mirror: bool, shift: float, scale: tuple[float, float]
    ) -> None:
        self.dataset, self.copies = dataset, copies
        self.mirror, self.shift, self.scale = mirror, shift, scale

    def __len__(self) -> int:
        return len(self.dataset) * self.copies

    def all_samples(self) -> Iterable[Sample]:
        """The original samples; no image is read."""
        return self.dataset.all_samples()

    def bucket(self, index: int) -> Size | None:
        """Height and width of a sample if the data set has several sizes, otherwise None."""
        return self.dataset.bucket(index // self.copies)

    def __getitem__(self, index: int) -> tuple[Tensor, Sample]:
        original, copy = divmod(index, self.copies)
        image, sample = self.dataset[original]
        if copy == 0:
            return image, sample
        generator = mixed_generator(copy, original)
        flip, up, across, size = torch.rand(4, generator=generator).tolist()
        if self.mirror and flip < 0.5 and may_mirror(sample):
            image = image.flip(-1)
        low, high = (math.log(factor) for factor in self.scale)
        shift = (self.shift * (2 * up - 1), self.shift * (2 * across - 1))
        return moved(image, math.exp(low + size * (high - low)), shift), sample


def may_mirror(sample: Sample) -> bool:
    """Whether the mirror image of a sample has the same meaning.

    It has not if a field is ``mirror: false`` or a caption contains a word for a side, such as ``left``.
    """
    fields = sample.fields
    captions = [*fields.get("captions", ()), fields.get("text") or ""]
    return bool(fields.get("mirror", True)) and not any(SIDES.search(caption) for caption in captions)


def moved(image: Tensor, factor: float, shift: tuple[float, float]) -> Tensor:
    """Resize an image about its centre and shift it, on the colour of its edge; the rest is cropped.

    Args:
        image: (3, H, W) in [−1, 1].
        factor: scale factor.
        shift: shift down and to the right, as fractions of height and width.

    Returns:
        (3, H, W) in [−1, 1].
    """
    height, width = image.shape[1:]
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    if size != (height, width):
        image = F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0].clamp(-1, 1)
    canvas = background(image)[:, None, None].expand(-1, height, width).clone()
    overlaps = [
        _overlap(side, full, round((full - side) / 2 + full * fraction))
        for side, full, fraction in zip(size, (height, width), shift, strict=True)
    ]
    (rows, from_rows), (columns, from_columns) = overlaps
    canvas[:, rows, columns] = image[:, from_rows, from_columns]
    return canvas


def background(image: Tensor) -> Tensor:
    """Median of each channel over the outermost pixels of an image, (3, H, W) → (3,)."""
    edge = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
    return torch.cat(edge, dim=1).median(dim=1).values


def _overlap(side: int, full: int, start: int) -> tuple[slice, slice]:
    """Overlap of the interval [start, start + side) with [0, full): as a slice of the latter, then of the
    former."""
    first, last = max(start, 0), min(start + side, full)
    return slice(first, last), slice(first - start, last - start)
