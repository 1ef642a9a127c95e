"""Published rules for resizing images to the size that a benchmark or a feature network needs, by name.

The rules differ in sub-pixel position, filter and antialiasing, and each difference changes a Fréchet
distance. Therefore every figure names its rule.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openhart.errors import UserError

INCEPTION_SIDE = 299


def resize_legacy_tensorflow(images: Tensor, side: int = INCEPTION_SIDE) -> Tensor:
    """Bilinear without antialiasing, source coordinate i · in / out: ADM, torch-fidelity.

    Args:
        images: (N, C, H, W) in [0, 255], any type.
        side: of the square output.

    Returns:
        float32 (N, C, side, side).
    """
    rows, row_share = _source_positions(images.shape[2], side)
    columns, column_share = _source_positions(images.shape[3], side)
    values = images.float()
    upper, lower = (
        _lerp(values[:, :, index][..., columns[0]], values[:, :, index][..., columns[1]], column_share)
        for index in rows
    )
    return _lerp(upper, lower, row_share[:, None])


def _source_positions(length: int, side: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """For each output position the two source positions it lies between, and how far to the second."""
    step = torch.tensor(length, dtype=torch.float32) / torch.tensor(side, dtype=torch.float32)
    source = torch.arange(side, dtype=torch.float32) * step
    first = source.floor().long()
    return (first, (first + 1).clamp_max(length - 1)), source - first


def _lerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return first + (second - first) * share


def resize_legacy_pytorch(images: Tensor, side: int = INCEPTION_SIDE) -> Tensor:
    """Bilinear without antialiasing, half-pixel centres: pytorch-fid, the Sana kit, DC-AE; see above."""
    resized = F.interpolate(images.float(), size=(side, side), mode="bilinear", align_corners=False)
    return resized.clamp(0, 255)


def resize_clean(images: Tensor, side: int = INCEPTION_SIDE) -> Tensor:
    """Each channel as a float image through Pillow's antialiased bicubic filter, clipped: clean-fid."""
    planes = images.float().cpu().numpy().reshape(-1, *images.shape[2:])
    resized = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC)) for plane in planes
    ]
    stacked = torch.from_numpy(np.stack(resized)).clamp(0, 255)
    return stacked.view(*images.shape[:2], side, side)


FEATURE_RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "legacy-tensorflow": resize_legacy_tensorflow,
    "legacy-pytorch": resize_legacy_pytorch,
    "clean": resize_clean,
}


def crop_adm(image: Image.Image, size: int) -> Image.Image:
    """ADM's square (MAR, LlamaGen, DC-AE): BOX halves while twice too large, BICUBIC, then the centre."""
    _check(image, size)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return _centre(image, size, (image.width - size) // 2, (image.height - size) // 2)


def crop_var(image: Image.Image, size: int) -> Image.Image:
    """VAR's square for validation: shorter side to 1.125 times the size with LANCZOS, then the centre."""
    _check(image, size)
    return _centre_torchvision(_shorter_side(image, round(1.125 * size), Image.Resampling.LANCZOS), size)


def crop_sana(image: Image.Image, size: int) -> Image.Image:
    """The Sana kit's square for MJHQ, on references and generated images: BILINEAR, then the centre."""
    _check(image, size)
    return _centre_torchvision(_shorter_side(image, size, Image.Resampling.BILINEAR), size)


def crop_switti(image: Image.Image, size: int) -> Image.Image:
    """Switti's square for MJHQ: shorter side with LANCZOS, then the centre; published with 256 pixels."""
    _check(image, size)
    return _centre_torchvision(_shorter_side(image, size, Image.Resampling.LANCZOS), size)


CROPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "adm": crop_adm,
    "var": crop_var,
    "sana": crop_sana,
    "switti": crop_switti,
}


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """RGB bytes of an image, (H, W, 3)."""
    return np.array(image.convert("RGB"))


def _check(image: Image.Image, size: int) -> None:
    if size < 1:
        raise UserError(f"the size of a crop must be at least 1 pixel, got {size}")
    if min(image.size) < 1:
        raise UserError("an image without pixels cannot be cropped")


def _shorter_side(image: Image.Image, side: int, filter_: Image.Resampling) -> Image.Image:
    """Scale so that the shorter side is as given, the longer one rounded down (torchvision's Resize)."""
    shorter = min(image.size)
    width, height = (int(side * length / shorter) for length in image.size)
    return image.resize((width, height), filter_)


def _centre_torchvision(image: Image.Image, size: int) -> Image.Image:
    """Half of an odd margin is rounded to the even neighbour."""
    return _centre(image, size, round((image.width - size) / 2), round((image.height - size) / 2))


def _centre(image: Image.Image, size: int, left: int, top: int) -> Image.Image:
    return image.crop((left, top, left + size, top + size))
