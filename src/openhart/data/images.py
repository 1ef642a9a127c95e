"""Images with captions or labels from a folder in the layout of Hugging Face or of ImageNet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from openhart.data.aspect import Size, log_aspect, nearest_size
from openhart.data.decoding import on_white, read_image
from openhart.data.sample import Sample, without_reserved
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
            image gets the size nearest to its aspect ratio, which its sample states as ``size``.
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
        records = _read_records(metadata) if metadata.is_file() else _classes(self.path)
        if not records:
            raise UserError(
                f"{self.path} has no images: it needs metadata.jsonl, or one sub-folder per class"
            )
        for field, values in (only or {}).items():
            records = [record for record in records if record.get(field) in values]
            if not records:
                raise UserError(
                    f"no record of {self.path} has one of the values {', '.join(values)} in {field}"
                )
        records.sort(key=lambda record: record["file_name"])
        self.samples = [Sample(record, self._size(record["file_name"])) for record in records]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Sample]:
        sample = self.samples[index]
        image = read_image(self.path / sample.fields["file_name"])
        return to_tensor(image, sample.size or self.sizes[0]), sample

    def all_samples(self) -> list[Sample]:
        """What is known of every image; no image is read."""
        return self.samples

    def bucket(self, index: int) -> Size | None:
        """Height and width of an image if the data set has several sizes, otherwise None."""
        return self.samples[index].size

    def _size(self, name: str) -> Size | None:
        """The size nearest to an image's aspect ratio, or None if there is only one."""
        return nearest_size(log_aspect(self.path / name), self.sizes) if len(self.sizes) > 1 else None


def _read_records(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = parse_json(line, f"{path}, line {number}")
        if not isinstance(record.get("file_name"), str):
            raise UserError(f"{path}, line {number}: a record must have a file_name that is a text")
        records.append(without_reserved(record))
    return records


def _classes(path: Path) -> list[dict[str, Any]]:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    return [
        {"file_name": str(image.relative_to(path)), "label": label, "text": folder.name}
        for label, folder in enumerate(folders)
        for image in folder.rglob("*")
        if image.suffix.lower().removeprefix(".") in IMAGE_KINDS
    ]
