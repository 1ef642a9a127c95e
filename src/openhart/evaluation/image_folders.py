"""Images of a folder, in batches of one size."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from openhart.data.decoding import BrokenImageError, read_image
from openhart.data.images import IMAGE_KINDS
from openhart.errors import UserError
from openhart.evaluation.images import BATCH, Images
from openhart.evaluation.metrics.resizing import to_array

Crop = Callable[[Image.Image], Image.Image]


def find_images(folder: Path) -> list[Path]:
    """All image files below a folder in alphabetical order; hidden files are ignored.

    Raises:
        UserError: the folder does not exist or has no images.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give a folder of images")
    kinds = {f".{kind}" for kind in IMAGE_KINDS}
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in kinds and not path.name.startswith(".")
    )
    if not paths:
        raise UserError(f"{folder} has no images: give a folder of {', '.join(IMAGE_KINDS)} files")
    return paths


def read_batches(
    paths: Sequence[Path], crop: Crop | None = None, broken: list[str] | None = None
) -> Iterator[Images]:
    """Read images in order: uint8 (B, H, W, 3); a batch ends where the size changes.

    Args:
        paths: image files.
        crop: applied to every image; None keeps it.
        broken: messages of unreadable images are appended here; None refuses such images.

    Raises:
        UserError: an image cannot be read and ``broken`` is None.
    """
    for _, batch in read_placed_batches(paths, crop, broken):
        yield batch


def read_placed_batches(
    paths: Sequence[Path], crop: Crop | None = None, broken: list[str] | None = None
) -> Iterator[tuple[list[int], Images]]:
    """The same, each batch with the indices of its images in ``paths``."""
    places: list[int] = []
    batch: list[Images] = []
    for place, path in enumerate(paths):
        try:
            image = read_image(path)
        except BrokenImageError as error:
            if broken is None:
                raise
            broken.append(str(error))
            continue
        array = to_array(image if crop is None else crop(image))
        if batch and (len(batch) == BATCH or array.shape != batch[0].shape):
            yield places, np.stack(batch)
            places, batch = [], []
        places.append(place)
        batch.append(array)
    if batch:
        yield places, np.stack(batch)
