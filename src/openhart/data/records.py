"""Records of images: their captions and labels, checked before they are used for training."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from openhart.checks import check_text
from openhart.data.aspect import BUCKET
from openhart.errors import UserError

IN_PLACE_OF = "in_place_of"
CACHE_POSITION = "place_in_cache"
RESERVED_FIELDS = (BUCKET, IN_PLACE_OF, CACHE_POSITION)


def without_reserved_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a record without the fields that only data sets of this package may set."""
    return {name: value for name, value in record.items() if name not in RESERVED_FIELDS}


def captions_of(record: Mapping[str, Any]) -> list[str]:
    """All captions of a record: its ``captions``, or else its ``text``.

    Raises:
        UserError: if the record has no caption, or if a caption is not a non-empty text.
    """
    name = record.get("file_name", "a sample")
    captions = record.get("captions")
    if captions is None or captions == []:
        captions = [] if record.get("text") in (None, "") else [record["text"]]
    if not captions:
        raise UserError(f"{name} has no caption: add a text to its record")
    if not isinstance(captions, list | tuple):
        raise UserError(f"the captions of {name} must be a list of texts, got {captions!r:.60}")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"a caption of {name} must be a text that is not empty, got {caption!r:.60}")
        try:
            check_text(caption)
        except ValueError as error:
            raise UserError(f"a caption of {name} {error}") from error
    return list(captions)


def main_caption(record: Mapping[str, Any]) -> str:
    """The main caption of a record: its ``text``, or else the first of its ``captions``.

    Raises:
        UserError: if the record has no caption, or if a caption is not a non-empty text.
    """
    captions = captions_of(record)
    return record["text"] if isinstance(record.get("text"), str) else captions[0]


def label_of(record: Mapping[str, Any], classes: int | None = None) -> int:
    """The class label of a record.

    Args:
        record: record of an image.
        classes: number of classes; None for any number.

    Raises:
        UserError: if the record has no label, or if the label is not an integer in [0, ``classes``).
    """
    name, label = record.get("file_name", "a sample"), record.get("label")
    if label is None:
        raise UserError(f"{name} has no label: add a label to its record")
    if type(label) is not int or label < 0:
        raise UserError(f"the label of {name} must be a whole number, at least 0, got {label!r:.60}")
    if classes is not None and label >= classes:
        raise UserError(
            f"the label of {name} is {label}, but conditioning.num_classes is {classes}: labels are 0 … "
            f"{classes - 1}"
        )
    return label


def check_records(records: Iterable[Mapping[str, Any]], kind: str, classes: int | None) -> None:
    """Check that every record has a valid caption or label.

    Args:
        records: records of images.
        kind: ``text`` checks captions, ``label`` checks labels.
        classes: number of classes; None for any number.

    Raises:
        UserError: if a record has no valid caption or label.
    """
    for record in records:
        CHECKS[kind](record, classes)


def values_of(records: Iterable[Mapping[str, Any]], kind: str) -> list[Any]:
    """The condition of each image.

    Args:
        records: records of images.
        kind: ``text`` for main captions, ``label`` for class labels.

    Raises:
        UserError: if a record has no valid caption or label.
    """
    return [VALUES[kind](record) for record in records]


def _check_captions(record: Mapping[str, Any], _: int | None) -> None:
    captions_of(record)


CHECKS: dict[str, Callable[[Mapping[str, Any], int | None], Any]] = {
    "text": _check_captions, "label": label_of
}  # fmt: skip
VALUES: dict[str, Callable[[Mapping[str, Any]], Any]] = {"text": main_caption, "label": label_of}
