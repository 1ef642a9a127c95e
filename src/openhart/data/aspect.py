"""Sizes to which images are cropped; with several sizes (aspect-ratio buckets), the nearest is used."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # not PostScript, which Pillow passes to a program that executes it
ORIENTATION, TRANSPOSED = 0x0112, 5  # EXIF: for orientations 5 to 8, width and height are exchanged

Size = tuple[int, int]


def log_aspect(source: Path | IO[bytes]) -> float:
    """ln(height / width) of an image after EXIF rotation, from its header only; 0 if it cannot be read."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if image.getexif().get(ORIENTATION, 1) >= TRANSPOSED:
                width, height = height, width
        return math.log(height / width)
    except Exception:  # noqa: BLE001 (each decoder raises errors of its own)
        return 0.0  # the error is reported when the image is decoded


def nearest_size(aspect: float, sizes: Sequence[Size]) -> Size:
    """The size, height and width, whose ln(height / width) is nearest to ``aspect``."""
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
