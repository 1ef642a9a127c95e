"""Extractors that see every image as a square of fixed size: DINOv2 and the image half of CLIP."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openhart.errors import UserError
from openhart.evaluation.networks.extractors import Floats
from openhart.evaluation.networks.hub import load_pretrained

DINO_SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class DinoExtractor:
    """Class token of DINOv2 (arXiv 2304.07193), for FD-DINOv2 (arXiv 2306.04675).

    Images are resized to 224 × 224 by Pillow's bicubic filter. FD-DINOv2 was published with ViT-L/14.

    Args:
        path: folder or hub id of a DINOv2 model of ``transformers``, such as ``facebook/dinov2-large``.
        device: where the network runs.

    Raises:
        UserError: the model cannot be loaded.
    """

    softmax_weight: Floats | None = None

    def __init__(self, path: str, device: torch.device | str = "cpu") -> None:
        from transformers import Dinov2Model

        self.name = f"DINOv2 {path}, class token, bicubic to {DINO_SIDE}"
        self.network = load_pretrained(Dinov2Model, path, "a DINOv2 model").eval().to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`openhart.evaluation.networks.extractors.Extractor`."""
        pixels = square_batch(images, DINO_SIDE, *IMAGENET).to(self.device)
        tokens: Tensor = self.network(pixel_values=pixels).last_hidden_state
        return tokens[:, 0].float().cpu().numpy(), None


class ClipExtractor:
    """Image embeddings of a CLIP model (arXiv 2103.00020), normalised to unit length, for CMMD.

    Images are resized to the square size of the model by Pillow's bicubic filter. CMMD was published with
    ViT-L/14 at 336 pixels.

    Args:
        path: folder or hub id of a CLIP model, such as ``openai/clip-vit-large-patch14-336``.
        device: where the network runs.

    Raises:
        UserError: the model cannot be loaded.
    """

    softmax_weight: Floats | None = None

    def __init__(self, path: str, device: torch.device | str = "cpu") -> None:
        from transformers import CLIPVisionModelWithProjection

        self.network = load_pretrained(CLIPVisionModelWithProjection, path, "a CLIP model").eval().to(device)
        self.side, self.device = int(self.network.config.image_size), device
        self.name = f"CLIP {path}, unit length, bicubic to {self.side}"

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`openhart.evaluation.networks.extractors.Extractor`."""
        pixels = square_batch(images, self.side, *CLIP_COLOURS).to(self.device)
        embeddings: Tensor = self.network(pixel_values=pixels).image_embeds.float()
        return torch.nn.functional.normalize(embeddings, dim=-1).cpu().numpy(), None


def square_batch(images: NDArray[np.uint8], side: int, mean: Any, std: Any) -> Tensor:
    """Resize images (B, H, W, 3) to squares and normalise the colours: float32 (B, 3, side, side).

    Args:
        images: uint8.
        side: side of the squares in pixels.
        mean: mean per channel, for values in [0, 1].
        std: standard deviation per channel.

    Raises:
        UserError: the batch is empty.
    """
    if not len(images):
        raise UserError("a batch needs at least one image")
    resized = [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in images]
    values = (
        torch.from_numpy(np.stack([np.asarray(each) for each in resized])).permute(0, 3, 1, 2).float() / 255
    )
    return (values - values.new_tensor(mean)[:, None, None]) / values.new_tensor(std)[:, None, None]
