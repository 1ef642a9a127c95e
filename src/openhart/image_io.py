"""Conversion between tensors and images, grids of images, and saving.

This module imports torch and Pillow only where they are used, so that the command line starts quickly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openhart.atomic import written_whole
from openhart.errors import UserError
from openhart.provenance import Record, record_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Pillow's name of the format by the suffix of the file."""
ROUNDING_RULES = {
    "round": "round(255 · (x + 1) / 2): MAR, torchvision's save_image, LlamaGen, DC-AE",
    "truncate": "floor(255 · (x + 1) / 2), on average half a level darker: VAR's demo, HART's sample.py, ADM",
}


def to_bytes(images: "Tensor", rounding: str = "round") -> "NDArray[np.uint8]":
    """(N, 3, H, W) in [−1, 1] → uint8 (N, H, W, 3); values outside the range are clipped.

    Args:
        images: images of any floating-point dtype; levels are computed in float32.
        rounding: one of :data:`ROUNDING_RULES`.

    Raises:
        UserError: if there is no rounding rule of this name.
    """
    if rounding not in ROUNDING_RULES:
        raise UserError(f"rounding must be one of {', '.join(ROUNDING_RULES)}, got {rounding!r}")
    levels = (images.float().clamp(-1, 1) + 1) / 2 * 255
    levels = levels.round() if rounding == "round" else levels.floor()
    return levels.byte().permute(0, 2, 3, 1).cpu().numpy()


def from_bytes(images: "NDArray[np.uint8]") -> "Tensor":
    """uint8 (…, H, W, 3) → float32 (…, 3, H, W) in [−1, 1]."""
    import torch

    return torch.from_numpy(images.copy()).movedim(-1, -3).float() / 127.5 - 1


def to_pil(images: "Tensor") -> "list[Image.Image]":
    """(N, 3, H, W) in [−1, 1] → N Pillow images, with the rounding rule ``round``."""
    from PIL import Image

    return [Image.fromarray(each) for each in to_bytes(images)]


def grid(images: "Sequence[Image.Image]", columns: int) -> "Image.Image":
    """Arrange images of equal size in a grid, row by row; their number must be a multiple of ``columns``."""
    from diffusers.utils import make_image_grid

    sheet: Image.Image = make_image_grid(list(images), len(images) // columns, columns)
    return sheet


def save_image(image: "Image.Image", path: Path, record: Record | None = None) -> None:
    """Write an image in the format of the file's suffix, or as PNG if no format has this suffix.

    The file appears only when it is complete.

    Args:
        image: the image.
        path: the file.
        record: how the image was made, which is written into the file; None for nothing.

    Raises:
        OSError: if the file cannot be written.
    """
    with written_whole(path) as temporary, temporary.open("wb") as file:
        kind = FORMATS.get(path.suffix.lower(), "PNG")
        image.save(file, kind, **({} if record is None else record_options(record, kind)))
