"""Images with captions or labels from a folder in the layout of Hugging Face or of ImageNet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from openhart.data.aspect import BUCKET, Size, log_aspect, nearest_size
from openhart.data.decoding import on_white, read_image
from openhart.data.records import without_reserved_fields
from openhart.errors import UserError
from openhart.image_io import from_bytes
from openhart.reading import parse_json, read_text

IMAGE_KINDS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff")


def to_tensor(image: Image.Image, size: Size) -> Tensor:
    """Scale an image (Lanczos) and crop it at its centre to height and width: (3, H, W) in [−1, 1]."""
    if image.size != (size[1], size[0]):
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    return from_bytes(np.array(on_white(image)))


class ImageFolder(Dataset[Any]):
    """Images of a folder and their records, sorted by file name.

    With ``metadata.jsonl`` (Hugging Face's layout) each line is a record: ``file_name``, and ``text``,
    ``captions`` or ``label``. Without it (ImageNet's layout) each sub-folder is a class that contains all
    images below it; labels are the indices of the sub-folders in alphabetical order, and their names are the
    captions.

    Args:
        path: the folder.
        sizes: height and width in pixels to which images are scaled and cropped. With several sizes, each
            image gets the size nearest to its aspect ratio, which its record names under ``cut_to``.
        only: allowed values per field; records with other values are omitted.

    Raises:
        UserError: if the folder does not exist or has no images, if a line is not a valid record, or if no
            record has the allowed values.
    """

    def __init__(self, path: Path, *sizes: Size, only: Mapping[str, Sequence[str]] | None = None) -> None:
        self.path, self.sizes = Path(path), sizes
        if not self.path.is_dir():
            raise UserError(f"there is no image folder {self.path}")
        metadata = self.path / "metadata.jsonl"
        self.records = _read_records(metadata) if metadata.is_file() else _classes(self.path)
        if not self.records:
            raise UserError(
                f"{self.path} has no images: it needs metadata.jsonl, or one sub-folder per class"
            )
        for field, values in (only or {}).items():
            self.records = [record for record in self.records if record.get(field) in values]
            if not self.records:
                raise UserError(
                    f"no record of {self.path} has one of the values {', '.join(values)} in {field}"
                )
        self.records.sort(key=lambda record: record["file_name"])
        if len(sizes) > 1:
            for record in self.records:
                record[BUCKET] = nearest_size(log_aspect(self.path / record["file_name"]), sizes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        record = self.records[index]
        size = record.get(BUCKET, self.sizes[0])
        return to_tensor(read_image(self.path / record["file_name"]), size), record

    def all_records(self) -> list[dict[str, Any]]:
        """The record of every image; no image is read."""
        return self.records

    def bucket(self, index: int) -> Size | None:
        """Height and width of an image if the data set has several sizes, otherwise None."""
        return self.records[index].get(BUCKET)


def _read_records(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = parse_json(line, f"{path}, line {number}")
        if not isinstance(record.get("file_name"), str):
            raise UserError(f"{path}, line {number}: a record must have a file_name that is a text")
        records.append(without_reserved_fields(record))
    return records


def _classes(path: Path) -> list[dict[str, Any]]:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    return [
        {"file_name": str(image.relative_to(path)), "label": label, "text": folder.name}
        for label, folder in enumerate(folders)
        for image in folder.rglob("*")
        if image.suffix.lower().removeprefix(".") in IMAGE_KINDS
    ]
