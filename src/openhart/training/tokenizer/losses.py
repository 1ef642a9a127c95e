"""What the tokenizer is trained for: likeness, perceived likeness, realism (VQGAN, arXiv 2012.09841)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError, require
from openhart.perceptual import PerceptualDistance
from openhart.tokenizer.quantizer import MultiScaleQuantizer, Quantized


class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004, appendix 6.1.2): image (B, 3, H, W) → one logit a patch.

    Args:
        width: channels of the first layer, doubled twice.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, after, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(before * width, after * width, 4, stride, padding=1, bias=False),
                nn.GroupNorm(width // 2, after * width),  # a batch's mixture of sources is no clue
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1, h, w)."""
        scores: Tensor = self.layers(image)
        return scores


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator from its logits on both kinds of image."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    likeness: Tensor, adversarial: Tensor, last_layer: Tensor, average: Callable[[Tensor], Tensor]
) -> Tensor:
    """Balance of the adversarial term: ratio of both gradients at the last layer (VQGAN, equation 7).

    Args:
        likeness: a scalar.
        adversarial: a scalar.
        last_layer: the decoder's last weight.
        average: takes the mean of a gradient over all processes.
    """
    wanted, given = (
        average(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (likeness, adversarial)
    )
    weight: Tensor = (wanted / (given + 1e-4)).clamp(0, 1e4).detach()
    return weight


def quantization_loss(features: Tensor, quantized: Quantized, commitment: float) -> Tensor:
    """Pull codes and φ to the features, and features to the codes (VAR, section 3.1).

    Args:
        features: (B, z, P, P), as the encoder gave them.
        quantized: what :meth:`MultiScaleQuantizer.quantize` made of them, with gradients.
        commitment: weight β of the second pull.

    Returns:
        The mean over scales, a scalar.
    """
    features = features.float()
    terms = [
        F.mse_loss(f_hat, features.detach()) + commitment * F.mse_loss(f_hat.detach(), features)
        for f_hat in quantized.f_hats
    ]
    return torch.stack(terms).mean()


def build_perceptual(name: str) -> nn.Module:
    """A perceptual distance by name: ``efficientnet`` (offline) or ``lpips`` (where installed).

    Returns:
        A module that takes two batches (B, 3, H, W) in [−1, 1] and returns their distance.

    Raises:
        UserError: an unknown name, or a package that is missing.
    """
    if name == "efficientnet":
        return PerceptualDistance()
    if name == "lpips":
        require("lpips")
        import lpips

        distance: nn.Module = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
        return distance
    raise UserError(f"perceptual must be efficientnet, lpips or null, got {name!r}")


def code_use(quantizer: MultiScaleQuantizer, codes: list[Tensor]) -> dict[str, float]:
    """Share of the codebook that each scale uses in a batch of codes, and its perplexity."""
    size = quantizer.codebook.num_embeddings
    report = {}
    for (height, width), found in zip(quantizer.scales, codes, strict=True):
        share = torch.bincount(found.flatten(), minlength=size).float() / found.numel()
        entropy = -(share * share.clamp_min(1e-10).log()).sum()
        report[f"codes_used/{height}x{width}"] = float((share > 0).float().mean())
        report[f"perplexity/{height}x{width}"] = float(entropy.exp())
    return report
