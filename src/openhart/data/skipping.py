"""Skipping of images that cannot be decoded, so that training continues."""

import itertools
import warnings
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

from torch.utils import data

from openhart.data.aspect import Size
from openhart.data.decoding import BrokenImageError
from openhart.data.sample import Dataset, Sample, Stream
from openhart.errors import UserError

MAX_CONSECUTIVE = 100

Value = TypeVar("Value")


class SkipBrokenDataset(data.Dataset[Any], Generic[Value]):
    """A data set that replaces each sample that cannot be decoded by the next readable one.

    The replacement has the same image size (bucket) and depends only on the index, so a resumed run gets the
    same samples. It states the decode errors of the skipped samples in :attr:`Sample.decode_errors`.

    Args:
        dataset: raises :class:`BrokenImageError` for an image that cannot be decoded.
    """

    def __init__(self, dataset: Dataset[Value]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def bucket(self, index: int) -> Size | None:
        """Height and width of a sample if the data set has several sizes, otherwise None."""
        return self.dataset.bucket(index)

    def all_samples(self) -> Iterable[Sample]:
        """What is known of the samples without reading their images."""
        return self.dataset.all_samples()

    def __getitem__(self, index: int) -> tuple[Value, Sample]:
        decode_errors: list[str] = []
        following = ((index + step) % len(self) for step in range(len(self)))
        same_size = (other for other in following if self.bucket(other) == self.bucket(index))
        for candidate in itertools.islice(same_size, MAX_CONSECUTIVE):
            try:
                value, sample = self.dataset[candidate]
            except BrokenImageError as error:
                decode_errors.append(str(error))
                continue
            return value, sample.replacing(decode_errors)
        raise UserError(f"no image can be read; the first error: {decode_errors[0]}")


def some_samples(dataset: Dataset[Any] | Stream[Any], count: int) -> list[tuple[Any, Sample]]:
    """At most ``count`` readable samples at equal distances; of a stream, the first ones.

    Raises:
        UserError: if many consecutive samples cannot be read.
    """
    if isinstance(dataset, data.IterableDataset):
        return list(itertools.islice(dataset, count))
    readable = SkipBrokenDataset(cast(Dataset[Any], dataset))
    stride = max(len(readable) // count, 1)
    return [readable[index] for index in range(0, len(readable), stride)[:count]]


class BrokenImages:
    """Warns once about each broken image and counts the broken images."""

    def __init__(self) -> None:
        self.decode_errors: set[str] = set()

    def note(self, samples: Iterable[Sample]) -> None:
        """Warn of the images that the samples of a batch replace."""
        errors = set(itertools.chain.from_iterable(sample.decode_errors for sample in samples))
        for error in sorted(errors - self.decode_errors):
            self.decode_errors.add(error)
            warnings.warn(f"skipped an image ({len(self)} so far): {error}", stacklevel=2)

    def __len__(self) -> int:
        return len(self.decode_errors)
