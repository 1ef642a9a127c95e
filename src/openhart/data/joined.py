"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch.utils.data import ConcatDataset

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
