"""Inception score, exp(E KL(p(y|x) ‖ p(y))) (arXiv 1606.03498), by the rules of two published programs."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.errors import UserError
from openhart.evaluation.metrics.intervals import bootstrap_interval

Array = NDArray[np.floating]
Indices = NDArray[np.intp]
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
    scores = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(features), part_size):
            divergence = _divergences(features[start : start + part_size], weight)
            scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


def _divergences(features: Array, weight: Array) -> Array:
    """KL divergence of each row's probabilities from their mean, (N,), in float32."""
    logits = features.astype(np.float32) @ weight.astype(np.float32)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    part = exponentials / exponentials.sum(axis=1, keepdims=True)
    divergences: Array = (part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))).sum(axis=1)
    return divergences


def inception_score_interval(
    score: float, features: Array, weight: Array, parts: Sequence[Indices]
) -> tuple[float, float] | None:
    """95 % interval of an inception score over the images: the bootstrap of the linearised score.

    The influence of an image on exp(mean KL) of its part is this score times the image's divergence minus the
    mean divergence (see :mod:`openhart.evaluation.metrics.influence`).

    Args:
        score: the value, by any rule.
        features: (N, D).
        weight: (D, classes) of the network's last layer.
        parts: indices of the features of each part.

    Returns:
        lower and upper end; None if a probability underflows to 0, so that the score is not defined.
    """
    influences = np.empty(len(features))
    with np.errstate(divide="ignore", invalid="ignore"):
        for part in parts:
            divergences = _divergences(features[part], weight).astype(np.float64)
            share = len(features) / (len(parts) * len(part))
            influences[part] = share * np.exp(divergences.mean()) * (divergences - divergences.mean())
    return bootstrap_interval(score + influences) if np.isfinite(influences).all() else None


def parts_in_order(count: int, part_size: int = 5000) -> list[Indices]:
    """Indices of the parts of ADM's evaluator: ``part_size`` each, in the given order."""
    return [np.arange(start, min(start + part_size, count)) for start in range(0, count, part_size)]


def parts_shuffled(
    count: int, parts: int = TORCH_FIDELITY_PARTS, seed: int | None = TORCH_FIDELITY_SEED
) -> list[Indices]:
    """Indices of the parts of torch-fidelity: equal shares of a shuffled order; None keeps the order."""
    order = np.arange(count) if seed is None else np.random.RandomState(seed).permutation(count)
    return [order[index * count // parts : (index + 1) * count // parts] for index in range(parts)]


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
    log_probabilities = logits.double().log_softmax(dim=1)
    scores = []
    for indices in parts_shuffled(count, parts, seed):
        part = log_probabilities[indices]
        average = part.exp().mean(dim=0, keepdim=True)
        scores.append(float((part.exp() * (part - average.log())).sum(dim=1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
