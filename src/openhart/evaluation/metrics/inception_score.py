"""Inception score, exp(E KL(p(y|x) ‖ p(y))) (arXiv 1606.03498), by the rules of two published programs."""

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.errors import UserError

Array = NDArray[np.floating]
TORCH_FIDELITY_PARTS = 10
TORCH_FIDELITY_SEED = 2020


def inception_score_guided_diffusion(features: Array, weight: Array, part_size: int = 5000) -> float:
    """As ADM's evaluator computes it, in float32.

    The features are cut in the order given into parts of ``part_size``; a shorter last part counts as much
    as the others. Features that are sorted by class give a score that is several times too low: shuffle the
    samples first. A probability that underflows to 0 makes the score NaN, as in the published program.

    Args:
        features: (N, D).
        weight: (D, classes), of the network's last layer, whose bias is left out.
        part_size: features per part.
    """
    logits = features.astype(np.float32) @ weight.astype(np.float32)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(probabilities), part_size):
            part = probabilities[start : start + part_size]
            divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
            scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores))


def inception_score_torch_fidelity(
    features: Array, weight: Array, parts: int = TORCH_FIDELITY_PARTS, seed: int | None = TORCH_FIDELITY_SEED
) -> tuple[float, float]:
    """As torch-fidelity (and so MAR) computes it, in float64 on equal parts of shuffled features.

    Args:
        features: (N, D).
        weight: (D, classes), of the network's last layer, whose bias is left out.
        parts: how many.
        seed: of the shuffle; None leaves the order as it is.

    Returns:
        mean and standard deviation over the parts.

    Raises:
        UserError: there are fewer features than parts.
    """
    count = len(features)
    if count < parts:
        raise UserError(f"an inception score in {parts} parts needs at least {parts} images, got {count}")
    logits = torch.from_numpy(features.astype(np.float32) @ weight.astype(np.float32))
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(count)]
    log_probabilities = logits.double().log_softmax(dim=1)
    scores = []
    for index in range(parts):
        part = log_probabilities[index * count // parts : (index + 1) * count // parts]
        average = part.exp().mean(dim=0, keepdim=True)
        scores.append(float((part.exp() * (part - average.log())).sum(dim=1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
