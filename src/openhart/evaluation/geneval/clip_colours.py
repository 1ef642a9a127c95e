"""Zero-shot classification of an object's colour by a CLIP model, as in the published GenEval program."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openhart.evaluation.geneval.detections import Objects
from openhart.evaluation.geneval.rules import COLOURS
from openhart.evaluation.networks.clip import ImageTextModel

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
BACKGROUND = "#999"
LOGIT_SCALE = 100.0


class ClipColours:
    """Chooses among ten colours by cosine similarity with text embeddings; three templates per colour.

    Args:
        model: a CLIP model; the published program uses OpenAI's ViT-L/14.
        background: colour that replaces everything outside the object's mask; ``original`` keeps the image.
        crop: whether the image is cropped to the object's box.
    """

    def __init__(self, model: ImageTextModel, background: str = BACKGROUND, crop: bool = True) -> None:
        self.model, self.background, self.crop = model, background, crop
        self.name = f"{model.name}, background {background}, {'cropped' if crop else 'not cropped'}"
        self.classifiers: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, image: Image.Image, objects: Objects, class_name: str) -> list[str]:
        """See :class:`openhart.evaluation.geneval.detections.ColourNamer`."""
        if class_name not in self.classifiers:
            self.classifiers[class_name] = colour_classifier(self.model, class_name)
        crops = [
            object_picture(
                image,
                box,
                None if objects.masks is None else objects.masks[index],
                self.background,
                self.crop,
            )
            for index, box in enumerate(objects.boxes)
        ]
        features = F.normalize(self.model.image_features(crops), dim=-1)
        logits = LOGIT_SCALE * features @ self.classifiers[class_name]
        return [COLOURS[index] for index in logits.argmax(dim=1).tolist()]


def colour_texts(class_name: str) -> list[str]:
    """The texts of a class, three per colour; as published, the article is not adapted (``a orange``)."""
    return [template.format(colour=colour, name=class_name) for colour in COLOURS for template in TEMPLATES]


def colour_classifier(model: ImageTextModel, class_name: str) -> Tensor:
    """One unit vector per colour, (D, 10): the normalised mean of the normalised features of its texts."""
    features = F.normalize(model.text_features(colour_texts(class_name)), dim=-1)
    return F.normalize(features.unflatten(0, (len(COLOURS), len(TEMPLATES))).mean(dim=1), dim=-1).T


def object_picture(
    image: Image.Image,
    box: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    background: str = BACKGROUND,
    crop: bool = True,
) -> Image.Image:
    """The image of one object for CLIP: the masked object on a plain background, cropped to its box.

    Args:
        image: RGB.
        box: (5,); the corners are rounded half to even, and the area outside the image is black.
        mask: bool (H, W), or None to keep the whole image.
        background: a colour, or ``original`` to keep the background.
        crop: whether to crop.
    """
    picture = image
    if mask is not None and background != "original":
        picture = Image.composite(image, Image.new("RGB", image.size, background), Image.fromarray(mask))
    if not crop:
        return picture
    left, top, right, bottom = (round(float(corner)) for corner in box[:4])
    return picture.crop((left, top, right, bottom))
