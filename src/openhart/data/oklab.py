"""Oklab, a colour space in which equal distances look about equally large.

Source: Björn Ottosson, "A perceptual color space for image processing" (2020).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CHROMA_STEPS = 12

TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_oklab(pixels: NDArray[np.uint8]) -> Floats:
    """sRGB bytes (…, 3) → lightness in [0, 1], green–red and blue–yellow in about [−0.4, 0.4], (…, 3)."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)[pixels]
    lab: Floats = np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T
    return lab


def to_lightness_chroma_hue(rgb: Floats) -> Floats:
    """sRGB in [0, 1], (…, 3) → Oklab's lightness in [0, 1], chroma, and hue in degrees, (…, 3)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0) + 0.055) / 1.055) ** 2.4)
    lightness, a, b = np.moveaxis(np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T, -1, 0)
    return np.stack([lightness, np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360], axis=-1)


def to_rgb(lightness_chroma_hue: Floats) -> Floats:
    """Inverse of :func:`to_lightness_chroma_hue`; the chroma is reduced as far as sRGB requires it."""
    lightness, chroma, hue = np.moveaxis(lightness_chroma_hue, -1, 0)
    low, high = np.zeros_like(chroma), chroma
    rgb = _to_rgb(lightness, chroma, hue)
    if ((rgb >= 0) & (rgb <= 1)).all():
        return rgb
    for _ in range(CHROMA_STEPS):  # bisection
        middle = (low + high) / 2
        rgb = _to_rgb(lightness, middle, hue)
        inside = ((rgb >= -1e-3) & (rgb <= 1 + 1e-3)).all(axis=-1)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.clip(_to_rgb(lightness, low, hue), 0, 1)


def _to_rgb(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    angle = np.radians(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    linear = (lab @ np.linalg.inv(TO_LAB).T) ** 3 @ np.linalg.inv(TO_CONES).T
    curved = 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curved)


def hue_distance(hue: Floats, other: float) -> Floats:
    """Angle between two hues, in degrees, in [0, 180]."""
    return np.abs((hue - other + 180) % 360 - 180)
