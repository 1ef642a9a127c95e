"""Noisy context: the transformer is given partly wrong codes and learns to correct them at later scales.

In generation, every scale depends on codes that the model drew itself. Training therefore exchanges codes of
the coarser scales; the codes to predict at later scales, and the residual's target, are quantized anew from
the remaining features (Infinity, arXiv 2412.04431, section 3.3). Without new targets, exchanges hardly help
there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.randomness import stack_random
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.training.generator.hart.code_loss import nearest_codes
from openhart.training.generator.hart.settings import NoisyContext


@dataclass(frozen=True)
class Seen:
    """The generator's inputs of a batch, and what it learns to predict from them.

    Attributes:
        codes: one tensor per scale, (B, h_k·w_k): the codes to predict.
        inputs: (B, Σ_{k≥2} h_k·w_k, z), accumulated features at scales 2 … K.
        continuous_target: (B, P², z), the features minus all scales but the last.
    """

    codes: list[Tensor]
    inputs: Tensor
    continuous_target: Tensor


class Exchange:
    """Draws which codes are exchanged and their replacements, with one generator per sample.

    Args:
        codebook: (V, z).
        settings: the recipe's ``noise``.
    """

    def __init__(self, codebook: Tensor, settings: NoisyContext) -> None:
        self.settings, self.size = settings, len(codebook)
        self.near: Tensor | None = None
        if settings.neighbours is not None and settings.neighbours < self.size - 1:
            self.near = nearest_codes(codebook, settings.neighbours + 1)[1][:, 1:]

    def __call__(
        self, codes: Tensor, strength: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Exchange codes.

        Args:
            codes: (B, n).
            strength: (B,), probability with which each code of a sample is exchanged.
            generators: one per sample.

        Returns:
            codes (B, n), and whether a sample was changed, (B,) bool.
        """
        count = codes.shape[1:]
        chosen = stack_random(torch.rand, count, generators) < strength[:, None]
        picks = stack_random(torch.rand, count, generators).to(codes.device)
        if self.near is None:
            others = (codes + 1 + (picks * (self.size - 1)).long()) % self.size
        else:
            near = self.near.to(codes.device)
            others = near[codes, (picks * near.shape[1]).long()]
        chosen = chosen.to(codes.device)
        return torch.where(chosen, others, codes), chosen.any(dim=1)


def clean_context(
    quantizer: MultiScaleQuantizer,
    codes: list[Tensor],
    continuous_target: Tensor,
    size: tuple[int, int] | None = None,
) -> Seen:
    """Inputs and targets of plain teacher forcing."""
    return Seen(codes, quantizer.code_inputs(codes, size), continuous_target)


def features_of(
    quantizer: MultiScaleQuantizer,
    codes: Sequence[Tensor],
    continuous_target: Tensor,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The continuous features (B, z, P, P) of codes and continuous target.

    Args:
        quantizer: made the codes.
        codes: one tensor per scale, (B, h_k·w_k).
        continuous_target: (B, P², z), the features minus all scales but the last.
        size: height and width of the feature map; None for the size that the quantizer is configured for.
    """
    size = size or quantizer.size
    f_hat = quantizer.empty(len(continuous_target), continuous_target.device, size)
    for index, found in enumerate(codes[:-1]):
        f_hat = quantizer.add_scale(f_hat, quantizer.lookup(found), index)
    features: Tensor = f_hat + continuous_target.transpose(1, 2).unflatten(2, size)
    return features


def noisy_context(
    quantizer: MultiScaleQuantizer,
    codes: list[Tensor],
    continuous_target: Tensor,
    exchange: Exchange,
    strength: float,
    generators: Sequence[torch.Generator],
    size: tuple[int, int] | None = None,
) -> Seen:
    """Exchange codes of the coarser scales and quantize the remaining features anew, scale by scale.

    The scales of a sample up to its first exchange are not changed, to the bit.

    Args:
        quantizer: made the codes.
        codes: one tensor per scale, (B, h_k·w_k).
        continuous_target: (B, P², z).
        exchange: draws the exchanged codes.
        strength: s; a sample's codes are exchanged with probability p ~ U(0, s).
        generators: one per sample.
        size: height and width of the feature map; None for the size that the quantizer is configured for.
    """
    features = features_of(quantizer, codes, continuous_target, size)
    shares = strength * stack_random(torch.rand, (1,), generators)[:, 0]
    touched = torch.zeros(len(shares), dtype=torch.bool, device=features.device)
    last = len(codes) - 1
    f_hat, wanted, inputs = torch.zeros_like(features), [], []
    for index, given in enumerate(codes):
        again = quantizer.nearest(quantizer.next_input(features - f_hat, index))
        wanted.append(torch.where(touched[:, None], again, given))
        if index == last:
            break
        shown = wanted[index]
        if index < (exchange.settings.scales or last):
            shown, changed = exchange(shown, shares, generators)
            touched = touched | changed
        f_hat = quantizer.add_scale(f_hat, quantizer.lookup(shown), index)
        inputs.append(quantizer.next_input(f_hat, index + 1))
    left = (features - f_hat).flatten(2).transpose(1, 2)
    context = torch.cat(inputs, dim=1) if inputs else features.new_zeros(len(features), 0, features.shape[1])
    return Seen(wanted, context, torch.where(touched[:, None, None], left, continuous_target))
