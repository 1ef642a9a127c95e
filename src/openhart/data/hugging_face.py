"""Images with captions or labels from data sets that Hugging Face's library ``datasets`` can load."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import Tensor
from torch.utils.data import Dataset

from openhart.data.aspect import Size, log_aspect, nearest_size
from openhart.data.decoding import BrokenImageError, decode_image, read_image
from openhart.data.images import to_tensor
from openhart.data.sample import Sample
from openhart.errors import UserError, reason, require

PREFIX = "hf:"
SETTINGS = ("split", "config", "image", "text", "label")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt")


class HuggingFaceImages(Dataset[Any]):
    """One split of a data set.

    Unless the address names the columns, these are used: the first column of images, the first of ``text``,
    ``caption``, ``captions`` and ``prompt`` that exists, and the first column of class labels.

    Args:
        address: ``hf:`` and a hub id or a folder, then settings as in a URL, such as
            ``hf:owner/name?split=train&config=en&image=photo&text=alt&label=kind``; the default split is
            ``train``.
        sizes: height and width in pixels to which images are scaled and cropped. With several sizes, each
            image gets the size nearest to its aspect ratio, which its sample states as ``size``; this
            reads the header of every image once.
        only: allowed values per column; rows with other values are omitted.

    Raises:
        UserError: if the package is missing, if the data set, the split or a column does not exist, or if no
            row has the allowed values.
    """

    def __init__(self, address: str, *sizes: Size, only: Mapping[str, Sequence[str]] | None = None) -> None:
        self.address, self.sizes = address, sizes
        name, settings = _parse(address)
        rows, image = _load(name, settings)
        self.image, self.columns = image, _columns(address, rows, settings)
        for field, values in (only or {}).items():
            if field not in rows.column_names:
                raise UserError(
                    f"{address} has no column {field}; its columns are {', '.join(rows.column_names)}"
                )
            rows = rows.filter(lambda value, values=tuple(values): value in values, input_columns=[field])
            if not len(rows):
                raise UserError(f"no row of {address} has one of the values {', '.join(values)} in {field}")
        self.rows = rows
        self.aspects = _aspects(rows, image) if len(sizes) > 1 else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Sample]:
        row = self.rows[index]
        image, name = row[self.image] or {}, self._name(index)
        if image.get("bytes"):
            decoded = decode_image(image["bytes"], name)
        elif image.get("path"):
            decoded = read_image(Path(image["path"]))
        else:
            raise BrokenImageError(f"{name} has no image")
        fields = _fields(name, {field: row[column] for field, column in self.columns.items()})
        size = self.bucket(index)
        return to_tensor(decoded, size or self.sizes[0]), Sample(fields, size)

    def _name(self, index: int) -> str:
        return f"row {index} of {self.address}"

    def all_samples(self) -> Iterator[Sample]:
        """Yield what is known of every row without decoding the images."""
        columns = [list(self.rows[column]) for column in self.columns.values()]
        for index in range(len(self)):
            values = (column[index] for column in columns)
            fields = _fields(self._name(index), dict(zip(self.columns, values, strict=True)))
            yield Sample(fields, self.bucket(index))

    def bucket(self, index: int) -> Size | None:
        """Height and width of a row's image if the data set has several sizes, otherwise None."""
        return None if self.aspects is None else nearest_size(self.aspects[index], self.sizes)


def _fields(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    fields = {field: value for field, value in values.items() if value is not None}
    if isinstance(fields.get("text"), list):
        fields["captions"] = fields.pop("text")
    return fields | {"file_name": name}


def _parse(address: str) -> tuple[str, dict[str, str]]:
    name, _, query = address.removeprefix(PREFIX).partition("?")
    if not name:
        raise UserError(f"{address} has no name: give a hub id or a folder after {PREFIX}")
    settings = dict(parse_qsl(query))
    if unknown := [setting for setting in settings if setting not in SETTINGS]:
        raise UserError(
            f"{address}: there is no setting {unknown[0]}; the settings are {', '.join(SETTINGS)}"
        )
    return name, settings


def _load(name: str, settings: dict[str, str]) -> tuple[Any, str]:
    """Returns the rows, with images as undecoded files, and the name of the image column."""
    require("datasets", extra="hf")
    import datasets

    try:
        rows = datasets.load_dataset(name, settings.get("config"), split=settings.get("split", "train"))
    except Exception as error:  # of the hub, of file formats, or of Arrow
        raise UserError(f"cannot load data set {name}: {reason(error)}") from error
    images = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    image = settings.get("image") or next(iter(images), "")
    if image not in images:
        raise UserError(
            f"data set {name} has no image column {image}; its columns are {', '.join(rows.column_names)}"
        )
    return rows.cast_column(image, datasets.Image(decode=False)), image


def _aspects(rows: Any, column: str) -> list[float]:
    """ln(height / width) of each image; the library caches them on disk for later runs."""
    aspects = rows.map(_aspect, input_columns=[column], remove_columns=rows.column_names)
    return list(aspects["aspect"])


def _aspect(image: dict[str, Any] | None) -> dict[str, float]:
    image = image or {}
    if image.get("path") and not image.get("bytes"):
        return {"aspect": log_aspect(Path(image["path"]))}
    return {"aspect": log_aspect(io.BytesIO(image.get("bytes") or b""))}


def _columns(address: str, rows: Any, settings: dict[str, str]) -> dict[str, str]:
    """The columns of ``text`` and ``label``, if they exist."""
    from datasets import ClassLabel

    texts = [column for column in TEXT_COLUMNS if column in rows.column_names]
    labels = [column for column, kind in rows.features.items() if isinstance(kind, ClassLabel)]
    chosen = {}
    for field, columns in (("text", texts), ("label", labels)):
        column = settings.get(field) or next(iter(columns), None)
        if column is not None and column not in rows.column_names:
            raise UserError(
                f"{address} has no column {column}; its columns are {', '.join(rows.column_names)}"
            )
        if column is not None:
            chosen[field] = column
    return chosen
