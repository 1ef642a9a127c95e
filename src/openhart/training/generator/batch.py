"""A generator's batch: codes, what the transformer sees of them, and one condition a sample."""

from typing import Any

import torch
from torch import Tensor

from openhart.data.aspect import BUCKET
from openhart.randomness import stack_random
from openhart.scales import split_by_scale
from openhart.training.config import Thinning
from openhart.training.generator.losses import Batch
from openhart.training.generator.noisy_context import clean_context, noisy_context
from openhart.training.generator.stage import Stage


@torch.no_grad()
def make_batch(
    stage: Stage,
    codes: Tensor,
    last_target: Tensor,
    records: list[dict[str, Any]],
    generators: list[torch.Generator],
    common: torch.Generator,
    progress: float,
) -> Batch:
    """What the losses take, of codes (B, L) and the last scale's targets (B, P², z); ``generators`` draw for
    each sample, ``common`` what is the same for all on every process; ``progress`` is the share of the run's
    steps that is done.
    """
    quantizer = stage.tokenizer.quantizer
    scales = stage.tokenizer.scales_for_image(records[0].get(BUCKET, stage.tokenizer.image_size))
    size, by_scale = scales[-1], split_by_scale(codes, scales)
    condition = stage.conditions.draw(records, generators)
    strength = stage.exchange.settings.strength_at(progress) if stage.exchange else 0.0
    if stage.exchange is None or not strength:
        seen = clean_context(quantizer, by_scale, last_target, size)
    else:
        seen = noisy_context(quantizer, by_scale, last_target, stage.exchange, strength, generators, size)
    return Batch(
        codes=seen.codes,
        scale_inputs=seen.inputs,
        last_target=seen.last_target,
        condition=tuple(part.to(codes.device) for part in condition),
        keep=_choose_kept(codes, size, stage.recipe.thinning, generators, common),
        codebook=quantizer.codebook.weight,
        scales=scales,
        generators=generators,
    )


def _choose_kept(
    codes: Tensor,
    size: tuple[int, int],
    thinning: Thinning | None,
    generators: list[torch.Generator],
    common: torch.Generator,
) -> Tensor | None:
    """Which tokens of the last scale stay, as many in each sample, (B, P²); None for all."""
    if thinning is None:
        return None
    count = size[0] * size[1]
    dropped = torch.nn.init.trunc_normal_(
        torch.empty(()), thinning.mean, thinning.deviation, thinning.least, 1.0, common
    )
    kept = max(1, round(count * (1 - float(dropped))))
    order = stack_random(torch.rand, (count,), generators).argsort(dim=1)
    return (order < kept).to(codes.device)
