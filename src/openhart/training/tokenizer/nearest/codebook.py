"""Against unused codebook entries (collapse): a k-means start and the revival of unused codes.

If codes change by gradients alone, most of them become unused early, and the coarse scales use only a few.
Both remedies are common (Jukebox, arXiv 2005.00341, section 3.1; SoundStream, arXiv 2107.03312, section
III-C).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from openhart.randomness import step_generator
from openhart.tokenizer.base import CodeTokenizer
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.training.run.batches import open_batches
from openhart.training.tokenizer.recipe import TokenizerRecipe

KMEANS_BATCHES = 16


@torch.no_grad()
def start_with_kmeans(
    quantizer: MultiScaleQuantizer, features: Tensor, generator: torch.Generator, rounds: int = 10
) -> None:
    """Set the codebook to the k-means centres of the vectors that all scales quantize.

    Residuals depend on the codes before them, so rounds of assignment run over all scales at once.

    Args:
        quantizer: changed in place.
        features: (B, z, P, P); there should be several vectors per code.
        generator: draws the initial centres.
        rounds: Lloyd iterations.
    """
    table = quantizer.codebook.weight
    searched = features.float().flatten(2).transpose(1, 2).flatten(0, 1)
    picks = torch.randperm(len(searched), generator=generator)[: len(table)]
    table[: len(picks)] = searched[picks.to(searched.device)] / 2
    for _ in range(rounds):
        quantized = quantizer.quantize(features)
        searched = torch.cat([tokens.flatten(0, 1) for tokens in quantized.searched])
        codes = torch.cat([found.flatten() for found in quantized.codes])
        counts = torch.bincount(codes, minlength=len(table))
        sums = torch.zeros_like(table).index_add_(0, codes, searched)
        empty = counts == 0
        table.copy_(torch.where(empty[:, None], table, sums / counts.clamp_min(1)[:, None]))
        picks = torch.randint(len(searched), (int(empty.sum()),), generator=generator)
        table[empty] = searched[picks.to(searched.device)]


def kmeans_start(
    recipe: TokenizerRecipe, accelerator: Accelerator, tokenizer: CodeTokenizer, dataset: Any, number: int
) -> None:
    """Set the codebook to the k-means centres of some batches' features. Collective.

    Args:
        recipe: of the run.
        accelerator: of the run.
        tokenizer: its codebook is changed in place.
        dataset: images and records.
        number: of the step that follows; decides which batches are read.
    """
    opened = open_batches(dataset, recipe.data, recipe.run.seed, accelerator)
    features: list[Tensor] = []
    with torch.no_grad():
        for images, _ in itertools.islice(opened.after(number), KMEANS_BATCHES):
            features.append(accelerator.gather(tokenizer.encode(images.to(accelerator.device))))
    generator = step_generator(recipe.run.seed, number)
    start_with_kmeans(tokenizer.quantizer, torch.cat(features), generator)


class CodeRevival:
    """Counts how often each code is used and replaces unused codes by vectors of the data.

    Args:
        codebook_size: V.
        every: steps between revivals; None for none.
        decay: of the running count, per step.
        threshold: fraction of the average use below which a code counts as unused.
    """

    def __init__(
        self, codebook_size: int, every: int | None, decay: float = 0.98, threshold: float = 0.03
    ) -> None:
        self.use = torch.ones(codebook_size)
        self.every = every
        self.decay = decay
        self.threshold = threshold

    def count(self, codes: Sequence[Tensor]) -> None:
        """Add the codes of one step, of all processes, to the running count; 1 is the average use."""
        flat = torch.cat([found.flatten() for found in codes]).cpu()
        share = torch.bincount(flat, minlength=len(self.use)) * (len(self.use) / len(flat))
        self.use.lerp_(share.float(), 1 - self.decay)

    @torch.no_grad()
    def revive(
        self, quantizer: MultiScaleQuantizer, searched: Sequence[Tensor], generator: torch.Generator
    ) -> int:
        """Set each unused code to a random vector of a random scale.

        Args:
            quantizer: changed in place.
            searched: vectors that each scale quantized, of all processes, (B, n_k, z).
            generator: equal on all processes.

        Returns:
            number of codes that were set.
        """
        idle = (self.use < self.threshold).nonzero().flatten()
        table = quantizer.codebook.weight
        for code in idle.tolist():
            scale = int(torch.randint(len(searched), (), generator=generator))
            vectors = searched[scale].flatten(0, 1)
            pick = int(torch.randint(len(vectors), (), generator=generator))
            table[code] = vectors[pick].to(table.dtype)
        self.use[idle] = 1.0
        return len(idle)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint stores."""
        return {"use": self.use}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the running count."""
        self.use = state["use"]


def code_use(quantizer: MultiScaleQuantizer, codes: list[Tensor]) -> dict[str, float]:
    """Fraction of the codebook that each scale uses in a batch, and the perplexity of its codes.

    Args:
        quantizer: made the codes.
        codes: of each scale, (B, h_k·w_k).

    Returns:
        ``codes_used/HxW`` from 0 to 1, and ``perplexity/HxW`` from 1 to V, for each scale.
    """
    size = quantizer.codebook.num_embeddings
    report = {}
    for (height, width), found in zip(quantizer.scales, codes, strict=True):
        share = torch.bincount(found.flatten(), minlength=size).float() / found.numel()
        entropy = -(share * share.clamp_min(1e-10).log()).sum()
        report[f"codes_used/{height}x{width}"] = float((share > 0).float().mean())
        report[f"perplexity/{height}x{width}"] = float(entropy.exp())
    return report
