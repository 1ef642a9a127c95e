"""Batches in an order that depends only on seed and step, so that a resumed run sees the same ones."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from openhart.data import collate
from openhart.data.buckets import BucketedStream
from openhart.data.shards import Shards, ShardStream
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.errors import UserError, require
from openhart.interrupts import outlive_interrupts
from openhart.randomness import mixed_generator
from openhart.training.config import Data

Batch = TypeVar("Batch")


class EndlessBatches:
    """Index lists of shuffled epochs, one after the other, from any step on.

    Args:
        buckets: of each sample; those of a global batch are of one bucket, which a few fill up by being taken
            twice in an epoch.
        batch_size: samples a step and process.
        seed: fixes every epoch's order.
        first: step to begin with.
        rank: this process.
        world: number of processes; each takes its own part of the global batch.
    """

    def __init__(
        self,
        buckets: Sequence[Any],
        batch_size: int,
        seed: int,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.first, self.rank, self.world = first, rank, world
        members: dict[Any, list[int]] = {}
        for index, bucket in enumerate(buckets):
            members.setdefault(bucket, []).append(index)
        self.members = [torch.tensor(indices) for indices in members.values()]
        self.length = len(self._order(0))

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
        generator = mixed_generator(self.seed, epoch)
        orders = [indices[torch.randperm(len(indices), generator=generator)] for indices in self.members]
        if len(orders) == 1:
            return orders[0].tolist()
        together = self.batch_size * self.world
        batches = torch.cat([_filled(order, together).view(-1, together) for order in orders])
        return batches[torch.randperm(len(batches), generator=generator)].flatten().tolist()


def _filled(order: Tensor, multiple: int) -> Tensor:
    """An order repeated from its start until its length is a multiple."""
    wanted = -(-len(order) // multiple) * multiple
    return order.repeat(-(-wanted // len(order)))[:wanted]


class IndexedBatches:
    """Batches of a data set that is read by number; what cannot be read is named once and replaced.

    Args:
        dataset: map-style, of values and records.
        batch_size: samples a step and process.
        seed: fixes every epoch's order.
        workers: processes that read.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self, dataset: Any, batch_size: int, seed: int, workers: int, rank: int = 0, world: int = 1
    ) -> None:
        self.dataset, self.workers = SkipBrokenDataset(dataset), workers
        buckets = [self.dataset.bucket(index) for index in range(len(dataset))]
        self.order = partial(EndlessBatches, buckets, batch_size, seed, rank=rank, world=world)

    def after(self, done: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        """Stacked values and their records, without end, when ``done`` batches have been seen."""
        broken = BrokenImages()
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.order(first=done),
            num_workers=self.workers,
            collate_fn=collate,
            worker_init_fn=outlive_interrupts,
        )
        for batch in plainly(loader):
            broken.note(batch[1])
            yield batch


class StreamedBatches:
    """Batches of shards, by torchdata's loader, which knows its place in each reader's stream.

    Of images of several sizes, a process's batch has one; another process's may have another.

    Args:
        shards: what to read.
        batch_size: samples a step and process.
        seed: fixes every pass's order.
        workers: processes that read.
        rank: this process.
        world: number of processes.

    Raises:
        UserError: torchdata is not installed.
    """

    def __init__(
        self, shards: Shards, batch_size: int, seed: int, workers: int, rank: int = 0, world: int = 1
    ) -> None:
        require("torchdata", extra="train")
        from torchdata.stateful_dataloader import StatefulDataLoader

        self.rank, self.world = rank, world
        stream: Any = ShardStream(shards, seed, rank, world)
        together: int | None = batch_size
        if len(shards.sizes) > 1:
            stream, together = BucketedStream(stream, batch_size), None  # which makes batches itself
        self.loader = StatefulDataLoader(
            stream,
            together,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=outlive_interrupts,
        )

    def after(self, done: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        """Stacked values and their records, without end, from where the state says."""
        broken = BrokenImages()
        for batch in plainly(self.loader):
            broken.note(batch[1])
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place of every process's readers; every process must ask."""
        return {"workers": self.loader.num_workers, "places": gather_object([self.loader.state_dict()])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a place.

        Raises:
            UserError: it is that of another number of processes or workers.
        """
        before, now = (len(state["places"]), state["workers"]), (self.world, self.loader.num_workers)
        if before != now:
            raise UserError(
                f"this run read its shards with {before[0]} processes of {before[1]} workers, now they are "
                f"{now[0]} of {now[1]}: resume it with as many (data.workers={before[1]})"
            )
        self.loader.load_state_dict(state["places"][self.rank])


def open_batches(
    dataset: Any, data: Data, seed: int, accelerator: Accelerator
) -> IndexedBatches | StreamedBatches:
    """This process's batches of a data set."""
    kind = StreamedBatches if isinstance(dataset, IterableDataset) else IndexedBatches
    return kind(
        dataset, data.batch_size, seed, data.workers, accelerator.process_index, accelerator.num_processes
    )


def place_in(batches: IndexedBatches | StreamedBatches) -> dict[str, Any]:
    """What a checkpoint keeps of where a stream is; the place in a data set read by number is the step's."""
    return {"place": batches} if isinstance(batches, StreamedBatches) else {}


def plainly(loader: Iterable[Batch]) -> Iterator[Batch]:
    """A loader's batches; a worker's :class:`UserError` is raised without the worker's traceback."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error


def names_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """File names of records, for messages."""
    return [str(record.get("file_name", "a sample")) for record in records]
