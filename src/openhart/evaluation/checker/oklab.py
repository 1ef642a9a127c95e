"""Oklab, a space in which equal distances look about equally large."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Björn Ottosson, "A perceptual color space for image processing" (2020): linear sRGB → cones → Oklab
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
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
    lab: Floats = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab
