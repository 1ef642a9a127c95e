"""Batches of HART's generator: codes, the transformer's context, and one condition per sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.data.sample import Sample
from openhart.randomness import stack_random
from openhart.scales import split_by_scale
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.encoding.conditions import Conditions
from openhart.training.encoding.images import Encoded
from openhart.training.generator.hart.losses import Batch
from openhart.training.generator.hart.noisy_context import Exchange, clean_context, noisy_context
from openhart.training.generator.hart.settings import TokenDropping


@dataclass(frozen=True)
class HartBatchMaker:
    """Makes what the losses take of encoded samples.

    Attributes:
        tokenizer: encoded the samples.
        conditions: draws the condition of each sample.
        exchange: draws wrong codes for a noisy context, or None.
        token_dropping: share of the last scale's tokens that is left out, or None.
    """

    tokenizer: HybridTokenizer
    conditions: Conditions
    exchange: Exchange | None
    token_dropping: TokenDropping | None

    @torch.no_grad()
    def __call__(
        self,
        encoded: Encoded,
        samples: list[Sample],
        generators: list[torch.Generator],
        common: torch.Generator,
        progress: float,
    ) -> Batch:
        """One batch of B samples, of ``codes`` of all scales and ``targets``."""
        codes, continuous_target = encoded["codes"], encoded["targets"]
        quantizer = self.tokenizer.quantizer
        scales = self.tokenizer.scales_for_image(samples[0].size or self.tokenizer.image_size)
        size, by_scale = scales[-1], split_by_scale(codes, scales)
        condition = self.conditions.draw(samples, generators)
        strength = self.exchange.settings.strength_at(progress) if self.exchange else 0.0
        if self.exchange is None or not strength:
            seen = clean_context(quantizer, by_scale, continuous_target, size)
        else:
            seen = noisy_context(
                quantizer, by_scale, continuous_target, self.exchange, strength, generators, size
            )
        return Batch(
            codes=seen.codes,
            scale_inputs=seen.inputs,
            continuous_target=seen.continuous_target,
            condition=tuple(part.to(codes.device) for part in condition),
            keep=_choose_kept(codes, size, self.token_dropping, generators, common),
            codebook=quantizer.codebook.weight,
            scales=scales,
            generators=generators,
        )


def _choose_kept(
    codes: Tensor,
    size: tuple[int, int],
    token_dropping: TokenDropping | None,
    generators: list[torch.Generator],
    common: torch.Generator,
) -> Tensor | None:
    """Which tokens of the last scale are kept, equally many in each sample, (B, P²) bool; None for all."""
    if token_dropping is None:
        return None
    count = size[0] * size[1]
    kept = max(1, round(count * (1 - token_dropping.draw(common))))
    order = stack_random(torch.rand, (count,), generators).argsort(dim=1)
    return (order < kept).to(codes.device)
