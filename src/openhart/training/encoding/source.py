"""Where a generator's encoded samples come from: images encoded in each step, memory, or a cache on disk."""

from typing import Any, Protocol

import torch
from torch import Tensor

from openhart.data.joined import into_memory
from openhart.data.sample import Dataset, Stream
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.images import Encoded, Tokenizer, encode_images, from_stored
from openhart.training.encoding.memory import Latents


class Source(Protocol):
    """Samples whose values become the encodings that a generator learns from.

    Attributes:
        dataset: batches of values and samples are read from it, also by other processes.
        conditions: encodes the samples' captions, or reads their labels.
    """

    dataset: Dataset[Any] | Stream[Any]
    conditions: Conditions

    def start(self, device: torch.device) -> None:
        """Move the encoders to a device and do what precedes the first batch."""

    def encoded(self, values: Any) -> Encoded:
        """The encoding of a batch of values, on the device, in int64 and float32, by name
        (:func:`openhart.training.encoding.images.encode_images`)."""


class ImageSource:
    """Images that are encoded in each step (``cache: none``).

    Args:
        tokenizer: the trained image tokenizer.
        dataset: images (3, H, W) in [−1, 1].
        conditions: of the samples.
    """

    def __init__(
        self, tokenizer: Tokenizer, dataset: Dataset[Tensor] | Stream[Tensor], conditions: Conditions
    ) -> None:
        self.tokenizer, self.conditions = tokenizer, conditions
        self.dataset: Dataset[Any] | Stream[Any] = dataset

    def start(self, device: torch.device) -> None:
        """Move the encoders."""
        self.tokenizer.to(device)
        self.conditions.device = device

    def encoded(self, values: Tensor) -> Encoded:
        """The encoding of images (B, 3, H, W)."""
        return encode_images(self.tokenizer, values.to(self.tokenizer.device))


class StoredSource:
    """Encodings that are stored (``cache: FOLDER``, a :class:`openhart.training.encoding.disk.LatentCache`).

    Args:
        tokenizer: the image tokenizer that encoded them.
        dataset: encodings and samples.
        conditions: of the samples.
    """

    def __init__(self, tokenizer: Tokenizer, dataset: Dataset[Any], conditions: Conditions) -> None:
        self.tokenizer, self.conditions = tokenizer, conditions
        self.dataset: Dataset[Any] | Stream[Any] = dataset

    def start(self, device: torch.device) -> None:
        """Move the encoders, which sample images need."""
        self.tokenizer.to(device)
        self.conditions.device = device

    def encoded(self, values: Encoded) -> Encoded:
        """The encoding as it was stored."""
        return from_stored(values, self.tokenizer.device)


class MemorySource(StoredSource):
    """Images that are encoded once, before the first step, and stored in memory (``cache: memory``).

    Args:
        tokenizer: the trained image tokenizer.
        images: (3, H, W) in [−1, 1].
        conditions: of the samples.
        batch_size: images encoded at a time.
        workers: processes that read images.
        quiet: show no progress bar.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        images: Dataset[Tensor],
        conditions: Conditions,
        batch_size: int,
        workers: int,
        quiet: bool,
    ) -> None:
        super().__init__(tokenizer, images, conditions)
        self.images, self.batch_size, self.workers, self.quiet = images, batch_size, workers, quiet

    def start(self, device: torch.device) -> None:
        """Move the encoders and encode all images; on an accelerator, all captions too."""
        super().start(device)
        if device.type != "cpu":  # where a large batch of captions takes hardly longer than a small one
            self.conditions.remember(self.images.all_samples())
        self.dataset = into_memory(
            self.images,
            lambda images: Latents(self.tokenizer, images, self.batch_size, self.workers, self.quiet),
        )
