"""Interfaces of GenEval's detector and colour classifier, and the form of their results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Objects:
    """Detected objects of one class in one image.

    Attributes:
        boxes: float32 (n, 5): left, top, right, bottom in pixels, and score in [0, 1].
        masks: bool (n, H, W), or None if the detector has no masks.
    """

    boxes: Floats
    masks: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, indices: list[int]) -> "Objects":
        """The objects with these indices, in this order."""
        return Objects(self.boxes[indices], None if self.masks is None else self.masks[indices])


Found = Mapping[str, Objects]


class Detector(Protocol):
    """Detects objects in an image.

    Attributes:
        name: network and weights, as they are written into every result.
    """

    name: str

    def __call__(self, image: Image.Image) -> Found:
        """An upright RGB image → the objects of each class, in any order."""
        ...


class ColourNamer(Protocol):
    """Classifies the colours of objects.

    Attributes:
        name: network and rule, as they are written into every result.
    """

    name: str

    def __call__(self, image: Image.Image, objects: Objects, class_name: str) -> list[str]:
        """An image and objects of one class in it → one of GenEval's ten colours per object."""
        ...
