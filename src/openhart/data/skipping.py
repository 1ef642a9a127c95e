"""Training goes on when images of a data set cannot be read: others take their places."""

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
    """A map-style data set in which the next readable sample stands for one that is not.

    Its record then says so under ``in_place_of``. Which sample that is depends on the index alone, so that a
    resumed run sees the same; it is of the same bucket.

    Args:
        dataset: gives image and record; raises :class:`BrokenImageError`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def bucket(self, index: int) -> Any:
        """The size of a sample, if the data set has several."""
        return self.dataset.bucket(index) if hasattr(self.dataset, "bucket") else None

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        decode_errors: list[str] = []
        places = ((index + step) % len(self) for step in range(len(self)))
        alike = (place for place in places if self.bucket(place) == self.bucket(index))
        for place in itertools.islice(alike, MAX_CONSECUTIVE):
            try:
                image, record = self.dataset[place]
            except BrokenImageError as error:
                decode_errors.append(str(error))
                continue
            return image, with_skipped(record, decode_errors)
        raise UserError(f"no image can be read; the first: {decode_errors[0]}")


def with_skipped(record: dict[str, Any], decode_errors: Sequence[str]) -> dict[str, Any]:
    """The record of a sample that stands for broken ones, told by their decode_errors."""
    return record | {IN_PLACE_OF: list(decode_errors)} if decode_errors else record


class BrokenImages:
    """Names each broken image once, and counts them."""

    def __init__(self) -> None:
        self.decode_errors: set[str] = set()

    def note(self, records: Sequence[dict[str, Any]]) -> None:
        """Look for broken images in a batch's records."""
        found = set(itertools.chain.from_iterable(record.get(IN_PLACE_OF, ()) for record in records))
        for error in sorted(found - self.decode_errors):
            self.decode_errors.add(error)
            warnings.warn(f"skipped an image ({len(self)} so far): {error}", stacklevel=2)

    def __len__(self) -> int:
        return len(self.decode_errors)
