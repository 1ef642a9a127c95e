"""Perturbed reconstruction: true codes, some of them exchanged for near ones, as a generator's mistakes do.

A tokenizer whose images degrade slowly tolerates wrong codes, so the measurement predicts the quality of
generation without training a generator (RobusTok, arXiv 2503.08354). Its settings differ, so every figure
names the ones that were used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from openhart.errors import UserError
from openhart.evaluation.benchmarks.decoded import decoded_figures
from openhart.evaluation.result import Result
from openhart.randomness import mixed_generator
from openhart.scales import split_by_scale
from openhart.tokenizer.base import CodeTokenizer
from openhart.tokenizer.exchange import exchange_codes

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
NEAREST = 100


def evaluate_perturbed(
    tokenizer: CodeTokenizer,
    dataset: Dataset[Any],
    shares: Sequence[float] = SHARES,
    nearest: int = NEAREST,
    seed: int = 0,
    batch_size: int = 16,
    quiet: bool = False,
) -> Result:
    """Decode codes of which a share is exchanged at random, at every scale, without the residual.

    Args:
        tokenizer: the image tokenizer.
        dataset: images (3, H, W) in [−1, 1] with records.
        shares: probabilities in [0, 1] with which each code is exchanged.
        nearest: an exchanged code becomes one of so many nearest other codes, with equal probability.
        seed: image i uses the seed ``seed + i``.
        batch_size: images per batch.
        quiet: show no progress bar.

    Returns:
        figures ``S % exchanged, PSNR`` and ``… FD`` for each share.

    Raises:
        UserError: a share is outside [0, 1], or ``nearest`` is not between 1 and V − 1 for V codes.
    """
    others = tokenizer.quantizer.codebook.num_embeddings - 1
    if not 1 <= nearest <= others:
        raise UserError(f"nearest must be between 1 and {others}, the number of other codes, got {nearest}")
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise UserError(f"shares must be between 0 and 1, got {', '.join(map(str, shares)) or 'none'}")

    def versions(images: Tensor, first: int) -> Mapping[str, Tensor]:
        codes = torch.cat(tokenizer.quantize(tokenizer.encode(images)).codes, dim=1)
        draws = [_draws(codes.shape[1], nearest, seed + first + index) for index in range(len(codes))]
        chance, ranks = (torch.stack(part).to(codes.device) for part in zip(*draws, strict=True))
        found = {}
        for share in shares:
            exchanged = exchange_codes(tokenizer.quantizer, codes, torch.where(chance < share, ranks, 0))
            parts = split_by_scale(exchanged, tokenizer.quantizer.scales)
            found[_name(share)] = tokenizer.quantizer.decode(parts)
        return found

    figures = decoded_figures(tokenizer, dataset, versions, batch_size, quiet)
    rules = {"nearest": nearest, "seed": seed}
    named = tuple(replace(figure, rules={**figure.rules, **rules}) for figure in figures)
    return Result("perturbed", named, {"seed": seed})


def _draws(count: int, nearest: int, seed: int) -> tuple[Tensor, Tensor]:
    """A number in [0, 1) and a rank per code; larger shares exchange the same codes and more."""
    generator = mixed_generator(seed)
    ranks = torch.randint(1, nearest + 1, (count,), generator=generator)
    return torch.rand(count, generator=generator), ranks


def _name(share: float) -> str:
    return f"{100 * share:g} % exchanged"
