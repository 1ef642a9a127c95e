"""Colour of a drawn thing from a histogram of its hues, in place of GenEval's CLIP classifier.

A recoloured thing keeps its white, black and grey parts, so its most frequent colour is not decisive. A
linear classifier with ten outputs, one for each of GenEval's colours, reads a histogram of hue and lightness.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import nn

from openhart.data.oklab import to_oklab
from openhart.evaluation.geneval.detections import Objects
from openhart.evaluation.geneval.rules import COLOURS

GREY = 0.04
HUES, HUE_LIGHTNESSES, GREY_LIGHTNESSES = 18, 4, 6
BINS = HUES * HUE_LIGHTNESSES + GREY_LIGHTNESSES
Mask = NDArray[np.bool_]


def colour_histogram(picture: NDArray[np.uint8], mask: Mask) -> NDArray[np.float32]:
    """Square roots of the fractions of pixels per bin of hue and lightness: (78,), of unit length.

    Args:
        picture: (H, W, 3).
        mask: bool (H, W) of the thing; its outline, where colours mix, is excluded if enough pixels remain.
    """
    inside = binary_erosion(mask)
    pixels = to_oklab(picture[inside if inside.sum() > mask.sum() / 3 else mask])
    lightness = pixels[:, 0].clip(0, 1 - 1e-9)
    hue = np.arctan2(pixels[:, 2], pixels[:, 1]) / (2 * np.pi) % 1
    grey = np.hypot(pixels[:, 1], pixels[:, 2]) < GREY
    hued = (hue * HUES).astype(int) % HUES * HUE_LIGHTNESSES + (lightness * HUE_LIGHTNESSES).astype(int)
    bins = np.where(grey, HUES * HUE_LIGHTNESSES + (lightness * GREY_LIGHTNESSES).astype(int), hued)
    counts = np.bincount(bins, minlength=BINS)
    histogram: NDArray[np.float32] = np.sqrt(counts / max(1, counts.sum())).astype(np.float32)
    return histogram


class HueColours:
    """A :class:`openhart.evaluation.geneval.detections.ColourNamer`; it needs masks.

    Args:
        classifier: (78) → logits of the ten colours.
        name: name that is written into every result.
    """

    def __init__(self, classifier: nn.Linear, name: str) -> None:
        self.classifier, self.name = classifier, name

    @torch.no_grad()
    def __call__(  # the colour does not depend on the class, which the interface passes
        self,
        image: Image.Image,
        objects: Objects,
        class_name: str,  # noqa: ARG002
    ) -> list[str]:
        """See :class:`openhart.evaluation.geneval.detections.ColourNamer`; the class has no influence."""
        assert objects.masks is not None
        picture = np.array(image.convert("RGB"))
        histograms = np.stack([colour_histogram(picture, mask) for mask in objects.masks])
        return [COLOURS[index] for index in self.classifier(torch.from_numpy(histograms)).argmax(1).tolist()]
