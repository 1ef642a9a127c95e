"""Distances between images and between sets of images; features of the packaged EfficientNet-Lite0."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError, require
from openhart.perceptual import EfficientNetFeatures

KID_SUBSETS = 50
KID_SUBSET = 100


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB: two (B, 3, H, W) in [−1, 1] → (B,)."""
    error = F.mse_loss(image, reference, reduction="none").flatten(1).mean(dim=1)
    return -10 * (error / 4).log10()


@dataclass(frozen=True)
class SetDistances:
    """Distances between two sets of images.

    Attributes:
        frechet: Fréchet distance (arXiv 1706.08500, equation 6) on the 112 features of
            EfficientNet-Lite0's block 10.
        kid: kernel inception distance (arXiv 1801.01401) on the 1,280 features before its classifier.
    """

    frechet: float
    kid: float


class _Pooled(nn.Module):
    """One kind of features, in the form that torchmetrics requires."""

    def __init__(self, features: EfficientNetFeatures, middle: bool) -> None:
        super().__init__()
        self.read = features.middle if middle else features.pooled
        self.num_features = 112 if middle else 1280

    def forward(self, image: Tensor) -> Tensor:
        return self.read(image)


class SetComparison:
    """Collects real and generated images and computes the distances between the two sets.

    Raises:
        UserError: torchmetrics or the feature network is not installed.
    """

    def __init__(self) -> None:
        require("torchmetrics", extra="eval")
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        features = EfficientNetFeatures()
        self.frechet = FrechetInceptionDistance(feature=_Pooled(features, middle=True))
        self.frechet.set_dtype(torch.float64)
        self.kid = KernelInceptionDistance(
            feature=_Pooled(features, middle=False), subsets=KID_SUBSETS, subset_size=KID_SUBSET
        )
        self.counts = {True: 0, False: 0}

    @torch.no_grad()
    def add(self, images: Tensor, real: bool) -> None:
        """Add a batch (B, 3, H, W) in [−1, 1]."""
        self.counts[real] += len(images)
        self.frechet.update(images, real=real)
        self.kid.update(images, real=real)

    def distances(self) -> SetDistances:
        """Distances between all real and all generated images so far.

        Raises:
            UserError: one of the sets has fewer than two images.
        """
        fewest = min(self.counts.values())
        if fewest < 2:
            raise UserError(f"distances between sets need at least 2 images, got {fewest}")
        self.kid.subset_size = min(KID_SUBSET, fewest - 1)
        with torch.random.fork_rng(devices=[]):  # KID draws its subsets from the global generator
            torch.default_generator.manual_seed(0)
            return SetDistances(float(self.frechet.compute()), float(self.kid.compute()[0]))
