"""Cross-entropy of codes: weights of scales, and targets that are smoothed over near codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openhart.errors import UserError
from openhart.training.generator.hart.settings import CodeLoss

MOST_NEIGHBOURS = 64
LEAST_DISTANCE = 1e-12


@dataclass(frozen=True)
class SoftTargets:
    """Target distributions over near codes.

    Attributes:
        codes: (V, m), each code and its nearest codes.
        shares: (V, m), their probabilities; each row adds up to 1.
    """

    codes: Tensor
    shares: Tensor


def soft_targets(codebook: Tensor, settings: CodeLoss) -> SoftTargets | None:
    """Targets smoothed by code distance, or None for one-hot targets.

    The probability of code j is ε·softmax(−‖E_i − E_j‖²/τ) over the 64 nearest codes, plus 1 − ε for the code
    itself. A near code is a small error in the image, which a one-hot target ignores
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
    """Squared distances and indices of each code's nearest codes, (V, count) each, with itself first."""
    squared = torch.cdist(codebook.float(), codebook.float()).square().fill_diagonal_(-1.0)
    found = squared.topk(count, largest=False)
    return found.values.clamp_min(0.0), found.indices


def cross_entropies(logits: Tensor, wanted: Tensor, soft: SoftTargets | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token with its code, and with its smoothed target.

    Args:
        logits: (B, N, V).
        wanted: codes (B, N).
        soft: targets; with None both results are equal.

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
    """Weight of each token, (Σ sizes,); the weights add up to 1.

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
    """Check that a recipe has as many weights as the tokenizer has scales.

    Raises:
        UserError: if the numbers differ.
    """
    if settings.scale_weights and len(settings.scale_weights) != scales:
        raise UserError(
            f"code_loss.scale_weights must have one value for each of the {scales} scales, "
            f"got {len(settings.scale_weights)}"
        )
