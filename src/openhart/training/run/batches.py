"""Batches in an order that depends only on seed and step, so that a resumed run gets the same ones."""

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
from openhart.data.sample import Dataset, InMemory, Sample
from openhart.data.shards import Shards, ShardStream
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.errors import UserError, require
from openhart.interrupts import outlive_interrupts
from openhart.randomness import mixed_generator
from openhart.training.run.settings import Data

Batch = TypeVar("Batch")


class EndlessBatches:
    """An infinite sequence of index lists from shuffled epochs, from any step on.

    Args:
        buckets: size of each sample. A global batch has one size; to fill the last batch of a size, a few of
            its samples occur twice in an epoch.
        batch_size: samples per pass and process.
        seed: determines the order of every epoch.
        first: number of the first batch.
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
        """Yield index lists for ever."""
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
    """Batches of a data set that is read by index; unreadable images are replaced, with one warning each.

    Args:
        dataset: values and samples.
        batch_size: samples per pass and process.
        seed: determines the order of every epoch.
        workers: processes that read.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, seed: int, workers: int, rank: int = 0, world: int = 1
    ) -> None:
        self.given, self.dataset, self.workers = dataset, SkipBrokenDataset(dataset), workers
        buckets = [self.dataset.bucket(index) for index in range(len(dataset))]
        self.order = partial(EndlessBatches, buckets, batch_size, seed, rank=rank, world=world)

    def after(self, done: int) -> Iterator[tuple[Any, list[Sample]]]:
        """An infinite iterator over stacked values and their samples, from batch ``done`` on."""
        if isinstance(self.given, InMemory):
            yield from map(self.given.take, self.order(first=done))
        broken = BrokenImages()
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.order(first=done),
            num_workers=self.workers,
            collate_fn=collate,
            worker_init_fn=outlive_interrupts,
        )
        for batch in reraise_worker_errors(loader):
            broken.note(batch[1])
            yield batch


class StreamedBatches:
    """Batches of shards, by torchdata's loader, which can save the position of each reader.

    If there are several sizes, a batch has one; batches of other processes may have other sizes.

    Args:
        shards: of the data set.
        batch_size: samples per pass and process.
        seed: determines the order of every epoch.
        workers: processes that read.
        rank: this process.
        world: number of processes.

    Raises:
        UserError: if torchdata is not installed.
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

    def after(self, done: int) -> Iterator[tuple[Any, list[Sample]]]:
        """An infinite iterator over stacked values and their samples, from the restored position on.

        Args:
            done: not used, since the restored state holds the position.
        """
        broken = BrokenImages()
        for batch in reraise_worker_errors(self.loader):
            broken.note(batch[1])
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The positions of every process's readers. Collective."""
        return {"workers": self.loader.num_workers, "places": gather_object([self.loader.state_dict()])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position.

        Raises:
            UserError: if it was saved by another number of processes or workers.
        """
        before, now = (len(state["places"]), state["workers"]), (self.world, self.loader.num_workers)
        if before != now:
            raise UserError(
                f"this run read its shards with {before[0]} processes of {before[1]} workers, not with "
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
    """The position that a checkpoint must hold: that of a stream; otherwise it follows from the step."""
    return {"place": batches} if isinstance(batches, StreamedBatches) else {}


def reraise_worker_errors(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader; a :class:`UserError` of a worker is raised without the worker's traceback."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
