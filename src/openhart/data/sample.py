"""What is known of an image: captions, label and any other fields, checked when they are used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

from openhart.checks import check_text
from openhart.data.aspect import Size
from openhart.errors import UserError

SIZE, ERRORS, CACHE_ROWS = "cut_to", "in_place_of", "place_in_cache"
RESERVED = (SIZE, ERRORS, CACHE_ROWS)
"""Names under which a cache stores attributes of a sample beside its fields."""


@dataclass(frozen=True)
class Sample:
    """What is known of one image of a data set.

    Attributes:
        fields: as the data set has them: ``file_name``, ``text``, ``captions``, ``label`` and any others.
            Captions and label are checked when they are used, so that those that a run does not use may be
            anything.
        size: height and width in pixels that the image was cropped to, if its data set has several sizes.
        decode_errors: of unreadable images that this sample replaces.
        cache_rows: in a cache on disk, the number of the part that holds the encoded captions, and the row of
            each caption there.
    """

    fields: Mapping[str, Any]
    size: Size | None = None
    decode_errors: tuple[str, ...] = ()
    cache_rows: tuple[int, tuple[int, ...]] | None = None

    @property
    def name(self) -> str:
        """The image's file name, for messages."""
        return str(self.fields.get("file_name", "a sample"))

    @cached_property
    def captions(self) -> list[str]:
        """All captions: ``captions``, or ``text`` if there are none.

        Raises:
            UserError: if there is none, or if one is not a non-empty text.
        """
        captions = self.fields.get("captions")
        if captions is None or captions == []:
            text = self.fields.get("text")
            captions = [] if text in (None, "") else [text]
        if not captions:
            raise UserError(f"{self.name} has no caption: add a text to its record")
        if not isinstance(captions, list | tuple):
            raise UserError(f"the captions of {self.name} must be a list of texts, got {captions!r:.60}")
        for caption in captions:
            self._check_caption(caption)
        return list(captions)

    @property
    def main_caption(self) -> str:
        """The caption that represents the sample: ``text``, or the first of its captions.

        Raises:
            UserError: if there is none, or if one is not a non-empty text.
        """
        captions, text = self.captions, self.fields.get("text")
        return text if isinstance(text, str) else captions[0]

    def label(self, classes: int | None = None) -> int:
        """The class.

        Args:
            classes: number of classes; None for any.

        Raises:
            UserError: if there is no label, or if it is not an integer in [0, ``classes``).
        """
        label = self.fields.get("label")
        if label is None:
            raise UserError(f"{self.name} has no label: add a label to its record")
        if type(label) is not int or label < 0:
            raise UserError(f"the label of {self.name} must be a whole number, at least 0, got {label!r:.60}")
        if classes is not None and label >= classes:
            raise UserError(
                f"the label of {self.name} is {label}, but conditioning.num_classes is {classes}: labels are "
                f"0 … {classes - 1}"
            )
        return label

    def condition(self, kind: str, classes: int | None = None) -> str | int:
        """What conditions the image: its main caption (``kind: text``) or its class (``label``).

        Raises:
            UserError: if it is missing or not valid.
        """
        return self.label(classes) if kind == "label" else self.main_caption

    def replacing(self, decode_errors: Sequence[str]) -> "Sample":
        """The same sample in place of images that could not be decoded."""
        return replace(self, decode_errors=tuple(decode_errors)) if decode_errors else self

    def to_record(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        record = dict(self.fields)
        if self.size is not None:
            record[SIZE] = self.size
        if self.decode_errors:
            record[ERRORS] = self.decode_errors
        if self.cache_rows is not None:
            record[CACHE_ROWS] = self.cache_rows
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Sample":
        """The inverse of :meth:`to_record`."""
        size, rows = record.get(SIZE), record.get(CACHE_ROWS)
        return cls(
            without_reserved(record),
            None if size is None else (size[0], size[1]),
            tuple(record.get(ERRORS, ())),
            None if rows is None else (rows[0], tuple(rows[1])),
        )

    def _check_caption(self, caption: Any) -> None:
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"a caption of {self.name} must be a text that is not empty, got {caption!r:.60}")
        try:
            check_text(caption)
        except ValueError as error:
            raise UserError(f"a caption of {self.name} {error}") from error


Value = TypeVar("Value", covariant=True)


class Dataset(Protocol[Value]):
    """Samples read by index: an image (3, H, W) in [−1, 1], or its encoding, and what is known of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Value, Sample]: ...

    def bucket(self, index: int) -> Size | None:
        """The size of a sample, if there are several; without reading its image."""

    def all_samples(self) -> Iterable[Sample]:
        """What is known of the samples without reading their images."""


@runtime_checkable
class InMemory(Dataset[Value], Protocol[Value]):
    """A data set whose batches are in memory, so that no process has to read them."""

    def take(self, indices: Sequence[int]) -> tuple[Any, list[Sample]]:
        """A batch of values, stacked, and their samples."""


class Stream(Protocol[Value]):
    """Samples in an order of their own."""

    def __iter__(self) -> Iterator[tuple[Value, Sample]]: ...


def without_reserved(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it was read, without the names that a cache uses for a sample's attributes."""
    return {name: value for name, value in record.items() if name not in RESERVED}


def check_samples(samples: Iterable[Sample], kind: str, classes: int | None) -> None:
    """Check that every sample has what it is conditioned on.

    Args:
        samples: of a data set.
        kind: ``text`` or ``label``.
        classes: number of classes; None for any.

    Raises:
        UserError: if a caption or a label is missing or not valid.
    """
    for sample in samples:
        sample.condition(kind, classes)
