"""Batches of a stream of shards, each of one size."""

import copy
import itertools
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import torch
from torch.utils.data import IterableDataset

from openhart.data.aspect import Size, nearest_size
from openhart.data.shards import ShardStream
from openhart.randomness import mixed_generator

WINDOW = 16

Batch = list[tuple[torch.Tensor, dict[str, Any]]]
Raw = dict[str, Any]


class BucketedStream(IterableDataset[Any]):
    """Endless batches of shards' samples, each batch of one size, which go on where the state says.

    Samples are sorted into sizes a window at a time: sixteen batches' worth a size, kept as files. What does
    not fill a batch there is put together by shape, and cut to the size nearest to the mean of such a batch;
    so every image is seen once a pass. Resuming reads one window again.

    Args:
        stream: the samples.
        batch_size: samples a batch.
    """

    def __init__(self, stream: ShardStream, batch_size: int) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.position: dict[str, Any] = {"window": stream.state_dict(), "batch": 0}

    def __iter__(self) -> Iterator[Batch]:
        """Yield lists of image (3, H, W) in [−1, 1] and record, without end.

        Raises:
            UserError: a shard cannot be read, or none of its images.
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
        """The place of the next batch."""
        return copy.deepcopy(self.position)

    def load_state_dict(self, place: dict[str, Any]) -> None:
        """Go on at a place."""
        self.position = copy.deepcopy(place)
        self.stream.load_state_dict(place["window"])

    def _batches(self, window: list[Raw]) -> list[tuple[Size, list[Raw]]]:
        """A window in batches of one size each, shuffled."""
        shards = self.stream.shards
        shaped = [(shards.aspect(sample), sample) for sample in window]
        batches, rest = [], []
        for size in shards.sizes:
            members = [pair for pair in shaped if nearest_size(pair[0], shards.sizes) == size]
            full = len(members) - len(members) % self.batch_size
            batches += [(size, part) for part in self._parts(members[:full])]
            rest += members[full:]
        for part in self._parts(sorted(rest, key=itemgetter(0))):
            mean = sum(aspect for aspect, _ in part) / len(part)
            batches.append((nearest_size(mean, shards.sizes), part))
        generator = mixed_generator(self.stream.seed, *self.position["window"].values())
        order = torch.randperm(len(batches), generator=generator)
        return [(size, [sample for _, sample in part]) for size, part in map(batches.__getitem__, order)]

    def _parts(self, pairs: list[tuple[float, Raw]]) -> list[list[tuple[float, Raw]]]:
        starts = range(0, len(pairs), self.batch_size)
        return [pairs[start : start + self.batch_size] for start in starts]
