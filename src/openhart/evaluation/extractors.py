"""Networks that turn images into the features of a Fréchet distance, behind one interface."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from openhart.errors import UserError
from openhart.evaluation.checker.oklab import to_oklab
from openhart.evaluation.gradients import oriented_gradients

SPATIAL_CHANNELS = 7
MIDDLE = (0.7, 0.0, 0.0)
Floats = NDArray[np.floating]


class Extractor(Protocol):
    """Features of images.

    Attributes:
        name: network, weights and resizing rule, as it is written into every result.
        softmax_weight: (D, classes) of the last layer without its bias, or None where there is no classifier.
    """

    name: str
    softmax_weight: Floats | None

    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """uint8 (B, H, W, 3) → pooled features (B, D); spatial features (B, S), or None."""
        ...


class EfficientNetExtractor:
    """The packaged EfficientNet-Lite0: 1,280 pooled features, no spatial ones. Its figures are not FIDs."""

    name = "EfficientNet-Lite0, 1,280 features, antialiased bilinear to 224"
    softmax_weight: Floats | None = None

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from openhart.perceptual import EfficientNetFeatures

        self.network, self.device = EfficientNetFeatures().to(device), device

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`Extractor`."""
        batch = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.network.pooled(batch).cpu().numpy(), None


class GradientExtractor:
    """Directions of edges and layout of colours: no network, so nothing can have been trained towards it.

    Histograms of oriented gradients (9 directions, cells of 8 pixels) of the picture at 64 pixels, and the
    mean Oklab colour of 8 × 8 fields, each of unit length.
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


class InceptionExtractor:
    """The 2015 Inception of FID, as torch-fidelity converted it, with ADM's spatial features beside the pool.

    Spatial features are the first 7 channels of the 1×1 branch of ``Mixed_6d``, flattened with channels last:
    2,023 values in the order of ADM's stored ``mu_s``.

    Args:
        weights: path of torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``; None downloads it.
        device: where it runs.

    Raises:
        UserError: torch-fidelity is not installed, or its weights cannot be had.
    """

    name = "Inception 2015-12-05, 2,048 features, legacy TensorFlow resize to 299"

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:
            raise UserError(
                "Inception's features need torch-fidelity: pip install torch-fidelity torchvision"
            ) from error
        try:
            network: Any = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights and str(weights)
            )
        except OSError as error:
            raise UserError(
                "the weights of Inception cannot be downloaded: give the path of torch-fidelity's "
                f"weights-inception-2015-12-05-6726825d.pth ({error})"
            ) from error
        self.network, self.device = network.eval().to(device), device
        self.softmax_weight: Floats | None = network.fc.weight.detach().T.cpu().numpy()
        self.branch: torch.Tensor | None = None
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self.branch = output

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`Extractor`."""
        batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(self.device)
        pooled = self.network(batch)[0]
        assert self.branch is not None
        spatial = self.branch[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pooled.cpu().numpy(), spatial.cpu().numpy()
