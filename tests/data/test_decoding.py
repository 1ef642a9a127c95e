"""Every mode, depth and orientation of an image comes out as the picture that it shows."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from openhart.data.decoding import BrokenImageError, decode_image, read_image

RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
GREY = Image.fromarray(RAMP)


def stored(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(values, colour_type, transparent=b""):
    """A PNG of 16 bits per channel, which Pillow does not write for every colour type."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def lab(image):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image.convert("RGB"), *profiles, outputMode="LAB")


DEEP = RAMP.astype(np.uint16) * 257
OPAQUE = np.full_like(DEEP, 65535)
THREE = np.repeat(DEEP[..., None], 3, axis=2)
STORED = {
    "16-bit PNG": png(DEEP, 0),
    "16-bit RGB PNG": png(THREE, 2),
    "16-bit grey and alpha": png(np.stack([DEEP, OPAQUE], axis=2), 4),
    "16-bit RGBA": png(np.concatenate([THREE, OPAQUE[..., None]], axis=2), 6),
    "16-bit TIFF": stored(Image.fromarray(DEEP), "TIFF"),
    "16-bit PGM": stored(Image.fromarray(DEEP), "PPM"),
    "32-bit integers up to 255": stored(GREY.convert("I"), "TIFF"),
    "32-bit integers up to 65,535": stored(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
    "floats up to 255": stored(GREY.convert("F"), "TIFF"),
    "floats up to 1": stored(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
    "grey and alpha": stored(GREY.convert("LA"), "PNG"),
    "palette": stored(GREY.convert("P"), "PNG"),
    "palette and alpha": stored(GREY.convert("P").convert("PA"), "TIFF"),
    "CMYK": stored(GREY.convert("RGB").convert("CMYK"), "TIFF"),
    "YCbCr": stored(GREY.convert("RGB").convert("YCbCr"), "TIFF"),
    "Lab": stored(lab(GREY), "TIFF"),
    "GIF": stored(GREY, "GIF"),
}


@pytest.mark.parametrize("name", STORED)
def test_modes_and_depths(name):
    found = np.asarray(decode_image(STORED[name], name)).astype(int)
    assert found.shape == (*RAMP.shape, 3)
    assert np.abs(found - RAMP[..., None]).max() <= 1


def test_a_dark_deep_image_stays_dark():
    dark = DEEP // 256
    for data in (png(dark, 0), stored(Image.fromarray(dark), "PPM")):
        assert np.asarray(decode_image(data, "dark")).max() <= 1


def test_what_is_transparent_is_white():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    files = {
        "grey": png(DEEP * 0, 0, struct.pack(">H", 0)),
        "RGB": png(THREE * 0, 2, struct.pack(">HHH", 0, 0, 0)),
        "palette": stored(palette, "PNG", transparency=1),
        "palette's alpha": stored(palette, "PNG", transparency=bytes([255, 0])),
        "grey and alpha": stored(Image.new("LA", (4, 4), (0, 0)), "PNG"),
    }
    for name, data in files.items():
        assert np.asarray(decode_image(data, name)).min() == 255, name


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(np.asarray(decode_image(data, kind)).astype(int) - [255, 0, 0]).max() < 8


def test_turned_photographs_stand_upright():
    picture = Image.new("RGB", (20, 10), "black")
    picture.paste("white", (0, 0, 10, 10))
    exif = picture.getexif()
    exif[0x0112] = 6
    found = np.asarray(decode_image(stored(picture, "PNG", exif=exif), "turned"))
    assert found.shape == (20, 10, 3)
    assert found[:10].min() == 255


@pytest.mark.parametrize(
    ("values", "word"),
    [(np.full((4, 4), 1e9, np.float32), "32-bit values"), (np.full((4, 4), np.nan, np.float32), "32-bit")],
)
def test_values_of_no_known_range_are_refused(values, word):
    with pytest.raises(BrokenImageError, match=word):
        decode_image(stored(Image.fromarray(values), "TIFF"), "x.tif")


def test_what_is_no_image(tmp_path):
    for data in (b"", b"\x89PNG\r\n\x1a\n", stored(GREY, "PNG")[:60], b"II*\0" + b"\xff" * 40):
        with pytest.raises(BrokenImageError, match=r"cannot read x\.png as an image"):
            decode_image(data, "x.png")
    with pytest.raises(BrokenImageError, match="folder or a device"):
        read_image(tmp_path)
    with pytest.raises(BrokenImageError, match="no image"):
        read_image(tmp_path / "a\0b.png")
