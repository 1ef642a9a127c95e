"""Sizes that images are cut to; of several (aspect-ratio buckets), each takes the nearest to its shape."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image

BUCKET = "cut_to"
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # Pillow gives PostScript to a program that runs it
ORIENTATION, LYING = 0x0112, 5  # EXIF: from 5 on, width and height are exchanged

Size = tuple[int, int]


def log_aspect(source: Path | IO[bytes]) -> float:
    """ln(height / width) of an image held upright, of which only the header is read; 0 if it cannot be."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if image.getexif().get(ORIENTATION, 1) >= LYING:
                width, height = height, width
        return math.log(height / width)
    except Exception:  # noqa: BLE001 (each decoder raises errors of its own)
        return 0.0  # decoding it will say what is wrong


def nearest_size(aspect: float, sizes: Sequence[Size]) -> Size:
    """The size, height and width, whose ln(height / width) is nearest to ``aspect``."""
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
