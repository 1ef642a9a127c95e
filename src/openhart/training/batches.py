"""Batches in an order that depends only on seed and step, so that a resumed run sees the same ones."""

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from openhart.data import collate
from openhart.data.broken import BrokenImages, Sturdy


class EndlessBatches:
    """Index lists of shuffled epochs, one after the other, from any step on.

    Args:
        length: number of samples.
        batch_size: samples a step and process.
        seed: fixes every epoch's order.
        first: step to begin with.
        rank: this process.
        world: number of processes; each takes its own part of the global batch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first, self.rank, self.world = first, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield index lists without end."""
        epochs: dict[int, list[int]] = {}
        step = self.first
        while True:
            start = (step * self.world + self.rank) * self.batch_size
            places = range(start, start + self.batch_size)
            current = {place // self.length for place in places}
            epochs = {epoch: epochs.get(epoch) or self._order(epoch) for epoch in current}
            yield [epochs[place // self.length][place % self.length] for place in places]
            step += 1

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.length, generator=generator).tolist()


def stream_batches(
    dataset: Dataset, batch_size: int, seed: int, first: int, workers: int, rank: int, world: int
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Stacked samples and their records for steps ``first``, ``first`` + 1, … without end.

    A stream (:class:`IterableDataset`) shuffles and shards itself; its earlier batches are read past. In
    other data sets, what cannot be read is named once and replaced.
    """
    if isinstance(dataset, IterableDataset):
        skip = first
        while True:
            loader = DataLoader(dataset, batch_size, num_workers=workers, drop_last=True, collate_fn=collate)
            for batch in loader:
                if skip:
                    skip -= 1
                    continue
                yield batch
    assert isinstance(dataset, Sized)
    order, broken = EndlessBatches(len(dataset), batch_size, seed, first, rank, world), BrokenImages()
    for batch in DataLoader(Sturdy(dataset), batch_sampler=order, num_workers=workers, collate_fn=collate):
        broken.note(batch[1])
        yield batch


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of choices that a step makes for all its samples, the same on every process."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099)


def sample_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One source of random choices a sample, by its place in the run: however batches are split over
    processes, and wherever a run resumes, a sample draws the same.

    Args:
        seed: the run's.
        first: samples that the whole run saw before these.
        count: samples.
    """
    return [torch.Generator().manual_seed(((seed + 1) << 40) + first + place) for place in range(count)]


def drawn(make: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """What each sample's generator makes, stacked: (B, *shape)."""
    return torch.stack([make(*shape, generator=generator) for generator in generators])


def names_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """File names of records, for messages."""
    return [str(record.get("file_name", "a sample")) for record in records]
