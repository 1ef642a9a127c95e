"""The effect of the residual: the same prompts and seeds, generated with and without it."""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openhart.data.images import ImageFolder
from openhart.errors import UserError
from openhart.evaluation.benchmarks.retrieval import choose_things, retrieval_figures
from openhart.evaluation.images import Images, generate, pooled_features
from openhart.evaluation.metrics.frechet import frechet_clean_fid, statistics_of
from openhart.evaluation.metrics.intervals import bootstrap_error_interval
from openhart.evaluation.metrics.kernel import kernel_distance
from openhart.evaluation.networks.extractors import (
    EfficientNetExtractor,
    Extractor,
    MiddleExtractor,
    retrieval_extractors,
)
from openhart.evaluation.result import Figure, Result
from openhart.image_io import to_bytes
from openhart.perceptual import LITE2

KINDS = ("with residual", "without residual")
RESAMPLES = 100


def evaluate_residual(
    pipeline: Any,
    dataset: ImageFolder,
    count: int = 256,
    seed: int = 0,
    quiet: bool = False,
    resamples: int = RESAMPLES,
    **call: Any,
) -> Result:
    """Compare generation with and without the residual.

    Args:
        pipeline: a pipeline with a residual head.
        dataset: the texts of its records are the prompts, its images are the reference.
        count: number of prompts, each of a different thing.
        seed: determines the choice of records; image i is generated with ``seed + i`` in both cases.
        quiet: show no progress bar.
        resamples: number of bootstrap resamples.
        call: further arguments of the pipeline call.

    Returns:
        for each of the two cases the Fréchet distance ``FD`` on 112 features and ``FD-Lite2`` on 120 features
        of a network that no loss uses, ``KID`` on 1,280 features and retrieval accuracy by three extractors;
        ``FD saved by the residual``, and the same for ``FD-Lite2``, is the reduction as a fraction of the
        distance without the residual, with a bootstrap interval over prompts.

    Raises:
        UserError: the model has no residual head.
    """
    if getattr(pipeline, "residual_head", None) is None:
        raise UserError("this model has no residual head, so there is nothing to compare")
    chosen = choose_things(dataset.samples, count, seed)
    samples = [dataset[index] for index in chosen]
    real = to_bytes(torch.stack([image for image, _ in samples]))
    prompts = [sample.main_caption for _, sample in samples]
    seeds = [seed + number for number in range(count)]
    made = {
        kind: generate(pipeline, prompts, seeds, quiet, use_residual=kind == KINDS[0], **call)
        for kind in KINDS
    }
    figures = distance_figures(real, made, resamples)
    named = {f"{kind}, ": pictures for kind, pictures in made.items()}
    figures += retrieval_figures(real, named, retrieval_extractors())
    return Result("residual", tuple(figures), {"seed": seed, "data": str(dataset.path), **call})


def distance_figures(real: Images, made: dict[str, Images], resamples: int = RESAMPLES) -> list[Figure]:
    """Fréchet and kernel distances of two sets of images, and the relative reduction in FD."""
    pooled = EfficientNetExtractor()
    figures = []
    for kind, pictures in made.items():
        kernel = kernel_distance(pooled_features(pooled, real), pooled_features(pooled, pictures))
        figures.append(Figure(f"{kind}, KID", kernel.value, len(real), kernel.interval, pooled.name))
    middles: dict[str, Extractor] = {"FD": MiddleExtractor(), "FD-Lite2": MiddleExtractor(LITE2)}
    for distance, middle in middles.items():
        wanted = pooled_features(middle, real)
        given = [pooled_features(middle, pictures) for pictures in made.values()]
        for kind, features in zip(made, given, strict=True):
            paired = np.stack([features, wanted])
            interval = _interval(paired, _distance, resamples)
            figures.append(Figure(f"{kind}, {distance}", _distance(paired), len(real), interval, middle.name))
        triple = np.stack([*given, wanted])
        interval = _interval(triple, _saved, resamples)
        name = f"{distance} saved by the residual"
        figures.append(Figure(name, _saved(triple), len(real), interval, middle.name))
    return figures


def _interval(features: NDArray[np.floating], statistic: Any, resamples: int) -> tuple[float, float]:
    """Interval over prompts: the features (sets, N, D) of one prompt are resampled together."""
    by_prompt = features.swapaxes(0, 1)
    return bootstrap_error_interval(by_prompt, partial(_of_prompts, statistic), resamples)


def _of_prompts(statistic: Any, by_prompt: NDArray[np.floating]) -> float:
    return float(statistic(by_prompt.swapaxes(0, 1)))


def _distance(sets: NDArray[np.floating]) -> float:
    return frechet_clean_fid(statistics_of(sets[0]), statistics_of(sets[1]))


def _saved(sets: NDArray[np.floating]) -> float:
    return 1 - _distance(sets[[0, 2]]) / _distance(sets[[1, 2]])
