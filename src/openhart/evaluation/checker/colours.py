"""The colour of a drawn thing by the statistics of its pixels' hues, in place of GenEval's CLIP classifier.

A thing that was made red keeps its white, black and grey parts, so the commonest pixel does not decide. A
histogram over hue and lightness goes into a linear classifier with ten outputs, one for each of GenEval's
colours.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import nn

from openhart.evaluation.checker.oklab import to_oklab
from openhart.evaluation.detections import Objects
from openhart.evaluation.geneval_rules import COLOURS

GREY = 0.04
HUES, HUE_LIGHTNESSES, GREY_LIGHTNESSES = 18, 4, 6
BINS = HUES * HUE_LIGHTNESSES + GREY_LIGHTNESSES
Mask = NDArray[np.bool_]


def colour_histogram(picture: NDArray[np.uint8], mask: Mask) -> NDArray[np.float32]:
    """Square roots of the shares of pixels in bins of hue and lightness: (78,), of unit length.

    Args:
        picture: (H, W, 3).
        mask: bool (H, W) of the thing; its outline, where colours mix, is left out if the thing is thick.
    """
    inside = binary_erosion(mask)
    pixels = to_oklab(picture[inside if inside.sum() > mask.sum() / 3 else mask])
    lightness = pixels[:, 0].clip(0, 1 - 1e-9)
    hue = np.arctan2(pixels[:, 2], pixels[:, 1]) / (2 * np.pi) % 1
    grey = np.hypot(pixels[:, 1], pixels[:, 2]) < GREY
    hued = (hue * HUES).astype(int) % HUES * HUE_LIGHTNESSES + (lightness * HUE_LIGHTNESSES).astype(int)
    bins = np.where(grey, HUES * HUE_LIGHTNESSES + (lightness * GREY_LIGHTNESSES).astype(int), hued)
    counts = np.bincount(bins, minlength=BINS)
    return np.sqrt(counts / max(1, counts.sum())).astype(np.float32)


class HueColours:
    """A :class:`openhart.evaluation.detections.ColourNamer` that needs masks.

    Args:
        classifier: (78) → logits of the ten colours.
        name: as it is written into every result.
    """

    def __init__(self, classifier: nn.Linear, name: str) -> None:
        self.classifier, self.name = classifier, name

    @torch.no_grad()
    def __call__(self, image: Image.Image, objects: Objects, class_name: str) -> list[str]:
        """See :class:`openhart.evaluation.detections.ColourNamer`; the class makes no difference."""
        assert objects.masks is not None
        picture = np.array(image.convert("RGB"))
        histograms = np.stack([colour_histogram(picture, mask) for mask in objects.masks])
        return [COLOURS[index] for index in self.classifier(torch.from_numpy(histograms)).argmax(1).tolist()]
