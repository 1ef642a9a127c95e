"""What a detector says is in a picture, in GenEval's form: boxes with scores, and perhaps masks, by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Objects:
    """Objects of one class in one picture.

    Attributes:
        boxes: float32 (n, 5): left, top, right, bottom in pixels, and score in [0, 1].
        masks: bool (n, H, W), or None from a detector without masks.
    """

    boxes: Floats
    masks: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, indices: list[int]) -> "Objects":
        """The objects at these positions, in this order."""
        return Objects(self.boxes[indices], None if self.masks is None else self.masks[indices])


Found = Mapping[str, Objects]


class Detector(Protocol):
    """Finds objects.

    Attributes:
        name: network and weights, as it is written into every result.
    """

    name: str

    def __call__(self, image: Image.Image) -> Found:
        """An upright RGB picture → the objects of each class, in no order."""
        ...


class ColourNamer(Protocol):
    """Names the colours of objects.

    Attributes:
        name: network and rule, as it is written into every result.
    """

    name: str

    def __call__(self, image: Image.Image, objects: Objects, class_name: str) -> list[str]:
        """A picture and objects of a class in it → one of GenEval's colours for each."""
        ...
