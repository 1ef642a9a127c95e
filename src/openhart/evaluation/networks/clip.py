"""CLIP models (arXiv 2103.00020): features of images and of texts in one space."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from openhart.evaluation.networks.hub import load_image_processor, load_pretrained, load_tokenizer

CLIP = "openai/clip-vit-large-patch14"


class ImageTextModel(Protocol):
    """A model that maps images and texts to one space of D dimensions; features need not be normalised.

    Attributes:
        name: network and weights, as they are written into every result.
    """

    name: str

    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any size → (n, D)."""
        ...

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts → (n, D)."""
        ...


class TransformersClip:
    """A CLIP model of ``transformers`` with its own preprocessing; an :class:`ImageTextModel`.

    Args:
        path: folder or hub id.
        device: where the network runs.

    Raises:
        UserError: the model, its preprocessing or its tokenizer cannot be loaded.
    """

    def __init__(self, path: str = CLIP, device: torch.device | str = "cpu") -> None:
        from transformers import CLIPModel

        self.name, self.device = path, device
        self.model = load_pretrained(CLIPModel, path, "a CLIP model").eval().to(device)
        self.processor = load_image_processor(path)
        self.tokenizer = load_tokenizer(path)

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any size → (n, D)."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)
        return _tensor(self.model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts, truncated to the model's 77 tokens → (n, D)."""
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return _tensor(self.model.get_text_features(**inputs.to(self.device)))


def _tensor(output: Any) -> Tensor:
    """Features, which newer versions of transformers wrap in an output object."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features
