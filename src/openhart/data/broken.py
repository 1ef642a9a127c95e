"""Training goes on when images of a data set cannot be read: others take their places."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from openhart.data.images import BUCKET, BrokenImageError
from openhart.errors import UserError

BROKEN = "in_place_of"
MOST_IN_A_ROW = 100


class Sturdy(Dataset):
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
        return self.dataset.records[index].get(BUCKET) if hasattr(self.dataset, "records") else None

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        complaint = ""
        places = ((index + step) % len(self) for step in range(len(self)))
        alike = (place for place in places if self.bucket(place) == self.bucket(index))
        for place in itertools.islice(alike, MOST_IN_A_ROW):
            try:
                image, record = self.dataset[place]
            except BrokenImageError as error:
                complaint = complaint or str(error)
                continue
            return image, record | {BROKEN: complaint} if complaint else record
        raise UserError(f"no image can be read; the first: {complaint}")


class BrokenImages:
    """Names each broken image once, and counts them."""

    def __init__(self) -> None:
        self.complaints: set[str] = set()

    def note(self, records: Sequence[dict[str, Any]]) -> None:
        """Look for broken images in a batch's records."""
        found = {record[BROKEN] for record in records if BROKEN in record}
        for complaint in sorted(found - self.complaints):
            self.complaints.add(complaint)
            warnings.warn(f"skipped an image ({len(self)} so far): {complaint}", stacklevel=2)

    def __len__(self) -> int:
        return len(self.complaints)
