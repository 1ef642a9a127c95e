"""The input of the classifier: a square crop that shows one group of pieces on grey."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openhart.evaluation.checker.segments import Group

SIDE = 32
GROUND = 153
MARGIN = 0.08


def cut_out(picture: NDArray[np.uint8], group: Group) -> NDArray[np.uint8]:
    """An image (H, W, 3) and a group → (32, 32, 3); the longer side fits, all other pixels are grey."""
    left, top, right, bottom = group.box
    shown = np.where(group.mask[..., None], picture, GROUND).astype(np.uint8)[top:bottom, left:right]
    side = round((1 + 2 * MARGIN) * max(shown.shape[:2]))
    square = Image.new("RGB", (side, side), (GROUND,) * 3)
    square.paste(Image.fromarray(shown), ((side - shown.shape[1]) // 2, (side - shown.shape[0]) // 2))
    return np.array(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
