"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

from torch.utils import data

from openhart.data.aspect import Size
from openhart.data.sample import Dataset, Sample


class JoinedDatasets(data.Dataset[Any]):
    """The samples of several data sets that are read by index, one data set after the other.

    A data set that is given several times occurs as often in an epoch, which sets its share of the mixture.

    Args:
        datasets: one or more, of images of the same sizes.
    """

    def __init__(self, datasets: Sequence[Dataset[Any]]) -> None:
        self.datasets = datasets
        self.ends = list(accumulate(len(dataset) for dataset in datasets))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Any, Sample]:
        dataset, place = self._find(index)
        return dataset[place]

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several."""
        dataset, place = self._find(index)
        return dataset.bucket(place)

    def all_samples(self) -> Iterable[Sample]:
        """What is known of the samples without reading their images."""
        return chain.from_iterable(dataset.all_samples() for dataset in self.datasets)

    def _find(self, index: int) -> tuple[Dataset[Any], int]:
        number = bisect_right(self.ends, index)
        dataset = self.datasets[number]
        return dataset, index - self.ends[number] + len(dataset)
