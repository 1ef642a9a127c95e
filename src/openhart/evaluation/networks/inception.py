"""The Inception network of 2015 that defines FID, with the resizing rule of each published program."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openhart.errors import UserError, reason, require
from openhart.evaluation.metrics.resizing import FEATURE_RESIZES, INCEPTION_SIDE
from openhart.evaluation.networks.extractors import Floats

SPATIAL_CHANNELS = 7
NAME = "Inception 2015-12-05"
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


class InceptionExtractor:
    """The Inception network of 2015, as converted by torch-fidelity.

    The spatial features are those of ADM's sFID: the first 7 channels of the 1×1 branch of ``Mixed_6d``,
    flattened with channels last, which gives 2,023 values in the order of ADM's stored ``mu_s``.

    Args:
        weights: path of torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``; None downloads it.
        device: where the network runs.
        resize: one of :data:`openhart.evaluation.metrics.resizing.FEATURE_RESIZES`.

    Raises:
        UserError: torch-fidelity is not installed, its weights can be neither read nor downloaded, or there
            is no such rule.
    """

    def __init__(
        self,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
        resize: str = "legacy-tensorflow",
    ) -> None:
        require("torch_fidelity", "torchvision")
        if resize not in FEATURE_RESIZES:
            raise UserError(f"the resizing rule must be one of {', '.join(FEATURE_RESIZES)}, got {resize!r}")
        network = _load(weights)
        self.network, self.device, self.resize = network.eval().to(device), device, resize
        self.name = f"{NAME}, 2,048 features, {resize} resize to {INCEPTION_SIDE}"
        self.softmax_weight: Floats | None = network.fc.weight.detach().T.cpu().numpy()
        self.pixels: Tensor | None = None
        self.branch: Tensor | None = None
        network.Conv2d_1a_3x3.register_forward_pre_hook(self._replace)
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _replace(self, _module: Any, _inputs: Any) -> Tensor | None:
        """Images by the rule, in place of those that the network resized by its own."""
        return self.pixels

    def _keep(self, _module: Any, _inputs: Any, output: Tensor) -> None:
        self.branch = output

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """See :class:`openhart.evaluation.networks.extractors.Extractor`."""
        self.pixels = inception_input(images, self.resize).to(self.device)
        unused = torch.zeros(self.pixels.shape, dtype=torch.uint8, device=self.device)
        pooled = self.network(unused)[0]
        assert self.branch is not None
        spatial = self.branch[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pooled.cpu().numpy(), spatial.cpu().numpy()


def inception_input(images: NDArray[np.uint8], resize: str) -> Tensor:
    """Resize images to 299 × 299 and bring them to the range of the network by a published rule.

    Args:
        images: uint8 (B, H, W, 3).
        resize: one of :data:`openhart.evaluation.metrics.resizing.FEATURE_RESIZES`; with ``legacy-pytorch``
            the range is 2 · v / 255 − 1, otherwise (v − 128) / 128.

    Returns:
        float32 (B, 3, 299, 299).
    """
    levels = FEATURE_RESIZES[resize](torch.from_numpy(images.copy()).permute(0, 3, 1, 2), INCEPTION_SIDE)
    return levels * (2 / 255) - 1 if resize == "legacy-pytorch" else (levels - 128) / 128


def _load(weights: Path | None) -> Any:
    if weights is not None and not weights.is_file():
        raise UserError(f"there is no file {weights}: give the path of torch-fidelity's {WEIGHTS}")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "torch-fidelity cannot be imported: install the torchvision that belongs to the installed "
            f"torch ({reason(error)})"
        ) from error
    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights and str(weights)
        )
    except (OSError, RuntimeError, KeyError, UnpicklingError) as error:
        what = "downloaded" if weights is None else f"read from {weights}"
        raise UserError(
            f"the weights of Inception cannot be {what}: give the path of torch-fidelity's {WEIGHTS} "
            f"({reason(error)})"
        ) from error
