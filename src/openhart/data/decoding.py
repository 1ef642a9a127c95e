"""Decoding of image files of any mode, depth and orientation to 8-bit RGB; all data sets use it."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from openhart.data.aspect import FORMATS
from openhart.errors import UserError, reason

DEEP_FORMATS = ("PNG", "PPM")  # Pillow opens their 16-bit images in mode I (32 bits)


class BrokenImageError(UserError):
    """An image of a data set is missing or cannot be decoded."""


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB with EXIF rotation applied and transparent areas white.

    Of an animation, the first frame is read.

    Raises:
        BrokenImageError: if the file does not exist or cannot be decoded.
    """
    try:
        if not path.exists():
            raise BrokenImageError(f"there is no image {path}: check the path")
        if not path.is_file():
            raise BrokenImageError(f"{path} is a folder or a device, not an image file")
        return decode_image(path.read_bytes(), str(path))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # an impossible path raises ValueError
        raise BrokenImageError(f"cannot read {path} as an image: {reason(error)}") from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode the content of an image file; see :func:`read_image`.

    Raises:
        BrokenImageError: if the content is not an image that can be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            upright = ImageOps.exif_transpose(opened)
            upright.format = opened.format
            return on_white(upright)
    except UserError as error:
        raise BrokenImageError(f"cannot read {name} as an image: {error}") from error
    except UnidentifiedImageError as error:  # its own message names the buffer
        raise BrokenImageError(f"cannot read {name} as an image: its format is unknown") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BrokenImageError(
            f"cannot read {name} as an image: it has more than {limit:,} pixels"
        ) from error
    except Exception as error:  # decoders raise struct.error, IndexError, zlib.error …
        raise BrokenImageError(f"cannot read {name} as an image: {reason(error)}") from error


def on_white(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; transparent areas become white.

    Channels of 16 bits are scaled to 8 bits. For 32-bit integers and floats no file states the range, so it
    is taken from the values: up to 1 (floats only), 255 or 65,535.

    Raises:
        UserError: if an image has 32-bit values outside these ranges.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "LAB":
        image = _from_lab(image)
    if image.mode == "RGB" and max(image.info.get("transparency", (0,))) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a grey image of 16 or 32 bits to 8 bits; a grey value that marks transparency becomes alpha."""
    values = np.asarray(image).astype(np.float64)
    deep = image.mode.startswith("I;16") or image.format in DEEP_FORMATS
    scale = 65535.0 if deep else _range(values, floats=image.mode == "F")
    grey = Image.fromarray((values * (255 / scale)).round().clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _range(values: np.ndarray, floats: bool) -> float:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 65535):  # NaN and infinity are refused too
        raise UserError(
            f"its 32-bit values range from {low:g} to {high:g}: save it with 8 or 16 bits per channel"
        )
    if floats and high <= 1:
        return 1.0
    return 255.0 if high <= 255 else 65535.0


def _from_lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None
    return converted
