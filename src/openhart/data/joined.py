"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from openhart.data.aspect import Size
from openhart.data.sample import Sample


class JoinedDatasets(ConcatDataset[Any]):
    """The samples of several data sets that are read by index, one data set after the other.

    A data set that is given several times occurs as often in an epoch, which sets its share of the mixture.

    Args:
        datasets: one or more :class:`~openhart.data.sample.Dataset`, of images of the same sizes.
    """

    datasets: list[Any]

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several."""
        number = bisect_right(self.cumulative_sizes, index)
        dataset = self.datasets[number]
        size: Size | None = dataset.bucket(index - self.cumulative_sizes[number] + len(dataset))
        return size

    def all_samples(self) -> Iterable[Sample]:
        """What is known of the samples without reading their images."""
        return chain.from_iterable(dataset.all_samples() for dataset in self.datasets)


class Repeated(Subset[Any]):
    """A data set in memory, with samples that occur several times.

    Args:
        dataset: images or encodings in memory, with ``take``.
        indices: of the samples of ``dataset``, in the order of this data set.
    """

    dataset: Any

    def take(self, indices: Sequence[int]) -> tuple[Any, list[Sample]]:
        """A batch and its samples."""
        batch: tuple[Any, list[Sample]] = self.dataset.take([self.indices[index] for index in indices])
        return batch

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several."""
        size: Size | None = self.dataset.bucket(self.indices[index])
        return size

    def all_samples(self) -> list[Sample]:
        """What is known of all samples."""
        samples = list(self.dataset.all_samples())
        return [samples[index] for index in self.indices]


def into_memory(dataset: Any, convert: Callable[[Any], Any]) -> Any:
    """Put a data set into memory; of joined data sets, each is put there once, however often it is given.

    Args:
        dataset: a :class:`~openhart.data.sample.Dataset`.
        convert: reads a data set whole and returns one in memory, with as many samples and ``take``.
    """
    if not isinstance(dataset, JoinedDatasets):
        return convert(dataset)
    distinct = list(dict.fromkeys(dataset.datasets))
    starts = dict(zip(distinct, accumulate(map(len, distinct), initial=0), strict=False))
    indices = [starts[part] + index for part in dataset.datasets for index in range(len(part))]
    return Repeated(convert(JoinedDatasets(distinct)), indices)
