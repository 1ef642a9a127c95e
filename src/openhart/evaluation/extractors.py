"""Networks that turn images into the features of a Fréchet distance, behind one interface."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.errors import UserError

SPATIAL_CHANNELS = 7
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
        from openhart.features import EfficientNetFeatures

        self.network, self.device = EfficientNetFeatures().to(device), device

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`Extractor`."""
        batch = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.network.pooled(batch).cpu().numpy(), None


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
