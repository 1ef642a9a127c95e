"""Inception score, exp(E KL(p(y|x) ‖ p(y))) (arXiv 1606.03498), by the rules of two published programs."""

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.errors import UserError

Array = NDArray[np.floating]
TORCH_FIDELITY_PARTS = 10
TORCH_FIDELITY_SEED = 2020


def inception_score_guided_diffusion(features: Array, weight: Array, part_size: int = 5000) -> float:
    """The rule of ADM's evaluator, in float32.

    The features are divided, in the given order, into parts of ``part_size``; a shorter last part has the
    same weight as the others. Features that are sorted by class give a score that is several times too low,
    so shuffle the samples first. A probability that underflows to 0 makes the score NaN, as in the published
    program.

    Args:
        features: (N, D).
        weight: (D, classes) of the network's last layer; its bias is omitted.
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
    """The rule of torch-fidelity and MAR, in float64 on equal parts of shuffled features.

    Args:
        features: (N, D).
        weight: (D, classes) of the network's last layer; its bias is omitted.
        parts: number of parts.
        seed: seed of the shuffle; None keeps the order.

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
