"""A generator's batch: codes, what the transformer sees of them, and one condition a sample."""

from typing import Any

import torch
from torch import Tensor

from openhart.conditioning.text import empty_condition
from openhart.data.aspect import BUCKET
from openhart.data.records import captions_of, label_of
from openhart.data.words import drop_words
from openhart.scales import split_by_scale
from openhart.training.config import Thinning
from openhart.training.generator.losses import Batch
from openhart.training.generator.noisy_context import clean_context, noisy_context
from openhart.training.generator.stage import Stage
from openhart.training.run.batches import drawn


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
    quantizer = stage.tokenizer.at(records[0].get(BUCKET, stage.tokenizer.image_size)).quantizer
    by_scale = split_by_scale(codes, quantizer.scales)
    context, mask = _condition(stage, records, generators)
    strength = stage.exchange.settings.strength_at(progress) if stage.exchange else 0.0
    if stage.exchange is None or not strength:
        seen = clean_context(quantizer, by_scale, last_target)
    else:
        seen = noisy_context(quantizer, by_scale, last_target, stage.exchange, strength, generators)
    return Batch(
        codes=seen.codes,
        scale_inputs=seen.inputs,
        last_target=seen.last_target,
        context=context.to(codes.device),
        mask=mask.to(codes.device),
        keep=_choose_kept(codes, quantizer.size, stage.recipe.thinning, generators, common),
        codebook=quantizer.codebook.weight,
        scales=quantizer.scales,
        generators=generators,
    )


def _condition(
    stage: Stage, records: list[dict[str, Any]], generators: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """One caption (or the label) a sample, some replaced by the empty condition."""
    settings = stage.recipe.conditioning
    dropped = drawn(torch.rand, (1,), generators)[:, 0] < settings.drop
    if stage.conditions is None:
        assert settings.num_classes is not None
        labels = torch.tensor([label_of(record, settings.num_classes) for record in records])
        labels[dropped] = settings.num_classes
        return labels, torch.ones(len(records), 1, dtype=torch.bool)
    chosen = []
    for record, generator in zip(records, generators, strict=True):
        chosen.append(int(torch.randint(len(captions_of(record)), (), generator=generator)))
    if settings.word_drop:
        pairs = zip(records, chosen, generators, strict=True)
        words = [drop_words(captions_of(record)[i], settings.word_drop, draw) for record, i, draw in pairs]
        context, mask = stage.conditions(words)
    else:
        context, mask = stage.conditions.of(records, chosen)
    nothing, nothing_mask = empty_condition(*context.shape)
    return (
        torch.where(dropped[:, None, None], nothing, context),
        torch.where(dropped[:, None], nothing_mask, mask),
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
    order = drawn(torch.rand, (count,), generators).argsort(dim=1)
    return (order < kept).to(codes.device)
