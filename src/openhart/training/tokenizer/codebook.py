"""Keeping codes alive: a k-means start and the revival of codes nobody takes.

Left to the gradient alone, most codes die early and the coarse scales collapse onto a few. Both cures are
common in the field (Jukebox, arXiv 2005.00341, section 3.1; SoundStream, arXiv 2107.03312, section III-C).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from openhart.tokenizer.quantizer import MultiScaleQuantizer


@torch.no_grad()
def start_with_kmeans(
    quantizer: MultiScaleQuantizer, features: Tensor, generator: torch.Generator, rounds: int = 10
) -> None:
    """Set the codebook to the k-means centres of the vectors that its scales look up.

    Residuals depend on the codes before them, so rounds of assignment run over all scales at once.

    Args:
        quantizer: changed in place.
        features: (B, z, P, P), many enough to give every code some vectors.
        generator: draws the first centres.
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


class CodeRevival:
    """Counts how often each code is taken and moves idle ones onto vectors in use.

    Args:
        codebook_size: V.
        every: steps between revivals.
        decay: memory of the running count, a step.
        threshold: share of the average use below which a code counts as idle.
    """

    def __init__(self, codebook_size: int, every: int, decay: float = 0.98, threshold: float = 0.03) -> None:
        self.use = torch.ones(codebook_size)
        self.every = every
        self.decay = decay
        self.threshold = threshold

    def count(self, codes: Sequence[Tensor]) -> None:
        """Take one step's codes, of all processes, into the running count (1 is the average use)."""
        flat = torch.cat([found.flatten() for found in codes]).cpu()
        share = torch.bincount(flat, minlength=len(self.use)) * (len(self.use) / len(flat))
        self.use.lerp_(share.float(), 1 - self.decay)

    @torch.no_grad()
    def revive(
        self, quantizer: MultiScaleQuantizer, searched: Sequence[Tensor], generator: torch.Generator
    ) -> int:
        """Move each idle code onto a random vector of a random scale.

        Args:
            quantizer: changed in place.
            searched: vectors that each scale looked up, of all processes, (B, n_k, z).
            generator: the same on all processes.

        Returns:
            how many moved.
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
        """What must survive a restart."""
        return {"use": self.use}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the running count."""
        self.use = state["use"]
