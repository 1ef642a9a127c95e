"""Skipping of images that cannot be decoded, so that training continues."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from openhart.data.decoding import BrokenImageError
from openhart.data.records import IN_PLACE_OF
from openhart.errors import UserError

MAX_CONSECUTIVE = 100


class SkipBrokenDataset(Dataset[Any]):
    """A map-style data set that replaces each sample that cannot be decoded by the next readable one.

    The replacement has the same image size (bucket) and depends only on the index, so a resumed run gets the
    same samples. Its record lists the decode errors of the skipped samples under ``in_place_of``.

    Args:
        dataset: map-style data set of images and records that raises :class:`BrokenImageError` for an image
            that cannot be decoded.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def bucket(self, index: int) -> Any:
        """Height and width of a sample if the data set has several sizes, otherwise None."""
        return self.dataset.bucket(index) if hasattr(self.dataset, "bucket") else None

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        decode_errors: list[str] = []
        following = ((index + step) % len(self) for step in range(len(self)))
        same_size = (other for other in following if self.bucket(other) == self.bucket(index))
        for candidate in itertools.islice(same_size, MAX_CONSECUTIVE):
            try:
                image, record = self.dataset[candidate]
            except BrokenImageError as error:
                decode_errors.append(str(error))
                continue
            return image, with_skipped(record, decode_errors)
        raise UserError(f"no image can be read; the first error: {decode_errors[0]}")


def with_skipped(record: dict[str, Any], decode_errors: Sequence[str]) -> dict[str, Any]:
    """A record that lists the decode errors of the samples that were skipped before it, if there are any."""
    return record | {IN_PLACE_OF: list(decode_errors)} if decode_errors else record


class BrokenImages:
    """Warns once about each broken image and counts the broken images."""

    def __init__(self) -> None:
        self.decode_errors: set[str] = set()

    def note(self, records: Sequence[dict[str, Any]]) -> None:
        """Collect the decode errors from the records of a batch and warn about new ones."""
        errors = set(itertools.chain.from_iterable(record.get(IN_PLACE_OF, ()) for record in records))
        for error in sorted(errors - self.decode_errors):
            self.decode_errors.add(error)
            warnings.warn(f"skipped an image ({len(self)} so far): {error}", stacklevel=2)

    def __len__(self) -> int:
        return len(self.decode_errors)
