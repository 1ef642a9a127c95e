"""Reconstruction, perceptual and quantization losses (VQGAN, arXiv 2012.09841; VAR, arXiv 2404.02905)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError, require
from openhart.perceptual import PerceptualDistance
from openhart.tokenizer.quantizer import Quantized
from openhart.training.tokenizer.recipe import TokenizerLosses


def reconstruction_loss(
    output: Tensor, image: Tensor, weights: TokenizerLosses, perceptual: nn.Module | None
) -> tuple[Tensor, Tensor]:
    """Distance of a reconstruction from its image: L1, L2 and perceptual.

    Args:
        output: (B, 3, H, W), float32.
        image: (B, 3, H, W) in [−1, 1].
        weights: the recipe's ``losses``.
        perceptual: a perceptual distance, or None to leave it out.

    Returns:
        the weighted loss, and the PSNR in dB without gradient; scalars.
    """
    squared = F.mse_loss(output, image)
    loss = weights.l1 * F.l1_loss(output, image) + weights.l2 * squared
    if perceptual is not None:
        loss = loss + weights.perceptual_weight * perceptual(output, image).mean()
    return loss, -10 * (squared.detach() / 4).log10()


def quantization_loss(
    features: Tensor, quantized: Quantized, commitment: float, code_weight: float = 1.0
) -> Tensor:
    """Distance of codes and φ from the features, and of the features from the codes (VAR, section 3.1).

    Args:
        features: (B, z, P, P), as the encoder gave them.
        quantized: their quantization by :meth:`MultiScaleQuantizer.quantize`, with gradients.
        commitment: weight β of the second term.
        code_weight: weight of the first term. The released VQGANs were trained with exchanged weights: 1 for
            the second term and β = 0.25 for the first.

    Returns:
        The mean over scales, a scalar.
    """
    features = features.float()
    terms = [
        code_weight * F.mse_loss(f_hat, features.detach()) + commitment * F.mse_loss(f_hat.detach(), features)
        for f_hat in quantized.f_hats
    ]
    return torch.stack(terms).mean()


def build_perceptual(name: str) -> nn.Module:
    """A perceptual distance by name: ``efficientnet`` (offline) or ``lpips`` (where installed).

    Returns:
        A module that takes two batches (B, 3, H, W) in [−1, 1] and returns their distance.

    Raises:
        UserError: if the name is unknown, or if a package is missing.
    """
    if name == "efficientnet":
        return PerceptualDistance()
    if name == "lpips":
        require("lpips")
        import lpips

        distance: nn.Module = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
        return distance
    raise UserError(f"perceptual must be efficientnet, lpips or null, got {name!r}")
