"""The decoder's inputs in training: codes, complete features, and errors like those of a generator.

A decoder that was trained on the codes of real images only is not robust to wrong ones. Exchanging a few
codes for near ones after the quantizer's losses makes it robust (RobusTok, arXiv 2503.08354), and so does a
residual of random strength. Omitting the finest scales is the quantizer dropout of SoundStream (arXiv
2107.03312).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.scales import count_tokens, split_by_scale
from openhart.tokenizer.exchange import exchange_codes
from openhart.tokenizer.quantizer import MultiScaleQuantizer, Quantized
from openhart.training.tokenizer.nearest.recipe import CodePhase, Exchange


@dataclass(frozen=True)
class DecoderInputs:
    """Random choices for a batch of B samples with L codes each.

    Attributes:
        residual_share: (B,), λ in f̂ + λ·r: with 0 the codes alone are decoded, with 1 the complete features.
        ranks: (B, L) int, which nearest neighbour replaces the code of a position; 0 keeps the code. None
            keeps all codes.
        scales: (B,) int, number of scales, from the coarsest on, that are decoded.
        completed: (n, z, P, P), features that a generator has drawn, in place of the first n samples' own.
    """

    residual_share: Tensor
    ranks: Tensor | None
    scales: Tensor
    completed: Tensor | None = None

    def part(self, rows: slice, device: torch.device) -> "DecoderInputs":
        """The choices for some of the samples, on a device."""
        ranks = None if self.ranks is None else self.ranks[rows].to(device)
        return DecoderInputs(self.residual_share[rows].to(device), ranks, self.scales[rows].to(device))


def draw_decoder_inputs(
    phase: CodePhase, quantizer: MultiScaleQuantizer, batch: int, generator: torch.Generator
) -> DecoderInputs:
    """Draw the inputs of ``batch`` samples according to a phase of a recipe.

    The fraction of samples decoded from codes alone is exact up to one sample, which is drawn.
    """
    wanted = phase.discrete_share * batch
    count = int(wanted) + int(torch.rand((), generator=generator) < wanted % 1)
    discrete = torch.randperm(batch, generator=generator) < count
    strength = torch.ones(batch)
    if phase.random_residual:
        strength = torch.rand(batch, generator=generator)
    total = len(quantizer.scales)
    scales = torch.full((batch,), total)
    if phase.scale_dropout:
        dropped = torch.rand(batch, generator=generator) < phase.scale_dropout
        drawn = torch.randint(1, total + 1, (batch,), generator=generator)
        scales = torch.where(discrete & dropped, drawn, scales)
    ranks = None
    if phase.exchange is not None:
        ranks = _draw_ranks(phase.exchange, quantizer, batch, generator)
    return DecoderInputs(torch.where(discrete, 0.0, strength), ranks, scales)


def _draw_ranks(
    settings: Exchange, quantizer: MultiScaleQuantizer, batch: int, generator: torch.Generator
) -> Tensor:
    shape = (batch, count_tokens(quantizer.scales))
    disturbed = torch.rand(batch, 1, generator=generator) < settings.pictures
    chosen = torch.rand(shape, generator=generator) < settings.codes
    nearest = min(settings.nearest, quantizer.codebook.num_embeddings - 1)
    ranks = torch.randint(1, nearest + 1, shape, generator=generator)
    return torch.where(disturbed & chosen, ranks, 0)


def decoder_features(
    features: Tensor, quantized: Quantized, quantizer: MultiScaleQuantizer, inputs: DecoderInputs
) -> Tensor:
    """Features (B, z, H, W) for the decoder, with the gradient of the continuous ones (straight-through)."""
    with torch.no_grad():
        complete = quantized.f_hats[-1]
        steps = quantized.f_hats
        if inputs.ranks is not None:
            exchanged = exchange_codes(quantizer, torch.cat(quantized.codes, dim=1), inputs.ranks)
            steps = quantizer.prefixes(split_by_scale(exchanged, quantizer.scales))
        discrete = torch.stack(list(steps), dim=1)[torch.arange(len(features)), inputs.scales - 1]
        withheld = (inputs.residual_share - 1)[:, None, None, None] * (features.float() - complete)
        change = discrete - complete + withheld  # exactly 0 where nothing is withheld
    given = features + change.to(features.dtype)
    if inputs.completed is None:
        return given
    return torch.cat([inputs.completed.to(given.dtype), given[len(inputs.completed) :]])
