"""The one way in which image files become pictures: any mode, depth and orientation as 8-bit RGB."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from openhart.data.aspect import FORMATS
from openhart.errors import UserError, reason

DEEP_FORMATS = ("PNG", "PPM")  # which Pillow hands out as mode I, though they hold 16 bits


class BrokenImageError(UserError):
    """An image of a data set is missing or cannot be read."""


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright, on white where it is transparent; the first frame of an animation.

    Raises:
        BrokenImageError: there is none, or it cannot be read.
    """
    try:
        if not path.exists():
            raise BrokenImageError(f"there is no image {path}")
        if not path.is_file():
            raise BrokenImageError(f"{path} is no image but a folder or a device")
        return decode_image(path.read_bytes(), str(path))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is a path that cannot be
        raise BrokenImageError(f"cannot read {path} as an image: {reason(error)}") from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """As :func:`read_image`, of a file's content.

    Raises:
        BrokenImageError: it is no image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            upright = ImageOps.exif_transpose(opened)
            upright.format = opened.format
            return on_white(upright)
    except UserError as error:
        raise BrokenImageError(f"cannot read {name} as an image: {error}") from error
    except UnidentifiedImageError as error:  # its own message names the buffer
        raise BrokenImageError(f"cannot read {name} as an image: its format is not known") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BrokenImageError(f"cannot read {name} as an image: it has more than {most:,} pixels") from error
    except Exception as error:  # decoders raise what they meet: struct.error, IndexError, zlib.error …
        raise BrokenImageError(f"cannot read {name} as an image: {reason(error)}") from error


def on_white(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, on white where it is transparent.

    16 bits a channel are scaled to 8. Of integers and floats of 32 bits the range is read off the values, as
    nothing else states it: up to 1 (floats), 255 or 65,535.

    Raises:
        UserError: 32-bit values outside these ranges.
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
    """A grey image of 16 or 32 bits as one of 8, with transparency where a value stands for it."""
    values = np.asarray(image).astype(np.float64)
    deep = image.mode.startswith("I;16") or image.format in DEEP_FORMATS
    scale = 65535.0 if deep else _range(values, floats=image.mode == "F")
    grey = Image.fromarray((values * (255 / scale)).round().clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _range(values: np.ndarray, floats: bool) -> float:
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (least >= 0 and most <= 65535):  # not finite neither
        raise UserError(f"its 32-bit values lie in {least:g} … {most:g}: save it with 8 or 16 bits a channel")
    if floats and most <= 1:
        return 1.0
    return 255.0 if most <= 255 else 65535.0


def _from_lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert found is not None
    return found
