"""Cross-entropy of codes: how scales are weighed, and targets that spread over near codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openhart.errors import UserError
from openhart.training.generator.settings import CodeLoss

MOST_NEIGHBOURS = 64
LEAST_DISTANCE = 1e-12


@dataclass(frozen=True)
class SoftTargets:
    """Targets that give near codes a share.

    Attributes:
        codes: (V, m), each code and its nearest ones.
        shares: (V, m), what each of them gets; a row adds up to 1.
    """

    codes: Tensor
    shares: Tensor


def soft_targets(codebook: Tensor, settings: CodeLoss) -> SoftTargets | None:
    """Targets softened by code distance, or None for one-hot ones.

    A code's share is ε·softmax(−‖E_i − E_j‖²/τ), cut off after the 64 nearest codes, and 1 − ε more for the
    code itself. A near code is a small error in the picture, which the index alone does not tell
    (reAR, arXiv 2510.04450, section 3; IAR, arXiv 2501.00880, trains on clusters of near codes).

    Args:
        codebook: (V, z).
        settings: ε is ``smoothing``; τ is ``temperature`` times the mean squared distance to the nearest
            other code.
    """
    if not settings.smoothing:
        return None
    squared, codes = nearest_codes(codebook, min(MOST_NEIGHBOURS, len(codebook)))
    unit = settings.temperature * squared[:, 1].mean().clamp_min(LEAST_DISTANCE)
    shares = settings.smoothing * (-squared / unit).softmax(dim=-1)
    shares[:, 0] += 1 - settings.smoothing
    return SoftTargets(codes, shares)


def nearest_codes(codebook: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances and indices of each code's nearest ones (V, count), itself first."""
    squared = torch.cdist(codebook.float(), codebook.float()).square().fill_diagonal_(-1.0)
    found = squared.topk(count, largest=False)
    return found.values.clamp_min(0.0), found.indices


def cross_entropies(logits: Tensor, wanted: Tensor, soft: SoftTargets | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token with its code, and with its target.

    Args:
        logits: (B, N, V).
        wanted: codes (B, N).
        soft: targets, or None: then both are the same.

    Returns:
        (B, N) and (B, N).
    """
    hard = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
    if soft is None:
        return hard, hard
    codes, shares = soft.codes.to(wanted.device)[wanted], soft.shares.to(wanted.device)[wanted]
    spread = (logits.gather(-1, codes) * shares).sum(dim=-1)
    return hard, hard + logits.gather(-1, wanted[..., None])[..., 0] - spread


def token_weights(sizes: Sequence[int], settings: CodeLoss) -> Tensor:
    """How much each token counts, (Σ sizes,), adding up to 1.

    Args:
        sizes: tokens of each scale.
        settings: ``scale_balance`` and ``scale_weights``.
    """
    further = settings.scale_weights or [1.0] * len(sizes)
    tokens = torch.tensor(sizes)
    each = torch.tensor(further) / tokens**settings.scale_balance
    weights = each.repeat_interleave(tokens)
    return weights / weights.sum()


def check_weights(settings: CodeLoss, scales: int) -> None:
    """Compare a recipe's weights with the tokenizer's scales.

    Raises:
        UserError: there are not as many.
    """
    if settings.scale_weights and len(settings.scale_weights) != scales:
        raise UserError(
            f"code_loss.scale_weights must have one value for each of the {scales} scales, "
            f"got {len(settings.scale_weights)}"
        )
