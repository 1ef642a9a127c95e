"""Batches from a stream of shards, each batch of one image size (aspect-ratio buckets)."""

import copy
import itertools
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import torch
from torch.utils.data import IterableDataset

from openhart.data.aspect import Size, nearest_size
from openhart.data.sample import Sample
from openhart.data.shards import ShardStream
from openhart.randomness import mixed_generator

WINDOW = 16

Samples = list[tuple[torch.Tensor, Sample]]
Raw = dict[str, Any]


class BucketedStream(IterableDataset[Any]):
    """Infinite stream of batches, each of one image size, that can be resumed from its state.

    Samples are grouped by size within windows of sixteen batches per size; a window holds undecoded files.
    The samples that do not fill a batch of their size are sorted by aspect ratio and divided into batches;
    each of these is cropped to the size nearest to its mean aspect ratio. So every image occurs once per
    pass. Resuming reads one window again.

    Args:
        stream: the samples.
        batch_size: samples per batch.
    """

    def __init__(self, stream: ShardStream, batch_size: int) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.position: dict[str, Any] = {"window": stream.state_dict(), "batch": 0}

    def __iter__(self) -> Iterator[Samples]:
        """Yield lists of image (3, H, W) in [−1, 1] and sample, without end.

        Raises:
            UserError: if a shard cannot be read, or if many consecutive images cannot be decoded.
        """
        shards = self.stream.shards
        samples = self.stream.raw()
        decode_errors: list[str] = []
        while True:
            window = list(itertools.islice(samples, WINDOW * len(shards.sizes) * self.batch_size))
            for size, members in self._batches(window)[self.position["batch"] :]:
                self.position["batch"] += 1
                twice = itertools.chain(members, members)
                batch = list(itertools.islice(shards.decode(twice, decode_errors, size), len(members)))
                if batch:
                    yield batch
            self.position = {"window": self.stream.state_dict(), "batch": 0}

    def state_dict(self) -> dict[str, Any]:
        """Position of the next batch."""
        return copy.deepcopy(self.position)

    def load_state_dict(self, position: dict[str, Any]) -> None:
        """Continue at a position from :meth:`state_dict`."""
        self.position = copy.deepcopy(position)
        self.stream.load_state_dict(position["window"])

    def _batches(self, window: list[Raw]) -> list[tuple[Size, list[Raw]]]:
        """Divide a window into batches of one size each, in random order."""
        shards = self.stream.shards
        shaped = [(shards.aspect(sample), sample) for sample in window]
        batches, rest = [], []
        for size in shards.sizes:
            members = [pair for pair in shaped if nearest_size(pair[0], shards.sizes) == size]
            full = len(members) - len(members) % self.batch_size
            batches += [(size, chunk) for chunk in self._chunks(members[:full])]
            rest += members[full:]
        for chunk in self._chunks(sorted(rest, key=itemgetter(0))):
            mean = sum(aspect for aspect, _ in chunk) / len(chunk)
            batches.append((nearest_size(mean, shards.sizes), chunk))
        generator = mixed_generator(self.stream.seed, *self.position["window"].values())
        order = torch.randperm(len(batches), generator=generator)
        return [(size, [sample for _, sample in chunk]) for size, chunk in map(batches.__getitem__, order)]

    def _chunks(self, pairs: list[tuple[float, Raw]]) -> list[list[tuple[float, Raw]]]:
        starts = range(0, len(pairs), self.batch_size)
        return [pairs[start : start + self.batch_size] for start in starts]
