"""Figures of images that are decoded from several versions of the same features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.evaluation.images import Images
from openhart.evaluation.metrics.frechet import frechet_clean_fid, statistics_of
from openhart.evaluation.metrics.influence import paired_frechet_interval
from openhart.evaluation.metrics.intervals import Estimate, bootstrap_interval
from openhart.evaluation.metrics.kernel import kernel_distance
from openhart.evaluation.metrics.pixels import psnr_each
from openhart.evaluation.networks.extractors import Extractor, MiddleExtractor
from openhart.evaluation.result import Figure
from openhart.image_io import to_bytes
from openhart.tokenizer.base import ImageTokenizer

Versions = Callable[[Tensor, int], Mapping[str, Tensor]]
Values = NDArray[np.floating]
ROUNDING = {"rounding": "round"}


@dataclass(frozen=True)
class PairMetric:
    """A comparison of each decoded image with its original.

    Attributes:
        compute: two uint8 (N, H, W, 3) → (N,); infinite values are omitted from the mean.
        rules: what changes the number.
        network: the network it uses, or None.
    """

    compute: Callable[[Images, Images], Values]
    rules: Mapping[str, str]
    network: str | None = None


PSNR = PairMetric(psnr_each, {**ROUNDING, "mean": "of the ratios per image"})


@dataclass(frozen=True)
class Measures:
    """What is measured: metrics of pairs and distances between sets, by the names of their figures.

    A set distance whose name is ``KID`` is a kernel distance, every other one a Fréchet distance.
    """

    pairs: Mapping[str, PairMetric]
    sets: Mapping[str, Extractor]


@torch.no_grad()
def decoded_figures(
    tokenizer: ImageTokenizer,
    dataset: Dataset[Any],
    versions: Versions,
    batch_size: int = 16,
    quiet: bool = False,
    measures: Measures | None = None,
) -> list[Figure]:
    """Compare real images with the images that are decoded from each version of their features.

    Args:
        tokenizer: the image tokenizer.
        dataset: images (3, H, W) in [−1, 1] with records.
        versions: images (B, 3, H, W) in [−1, 1] and the index of the batch's first image → features to
            decode, (B, z, h, w), by name.
        batch_size: images per batch.
        quiet: show no progress bar.
        measures: None means ``PSNR``, and ``FD`` on block 10 of EfficientNet-Lite0.

    Returns:
        a figure ``VERSION, METRIC`` for each version and metric, with a bootstrap interval over images.
    """
    measures = measures or Measures({"PSNR": PSNR}, {"FD": MiddleExtractor()})
    paired: dict[tuple[str, str], list[Values]] = {}
    features: dict[tuple[str, str], list[Values]] = {}
    count = 0
    for images, _ in tqdm(DataLoader(dataset, batch_size, collate_fn=collate), desc="images", disable=quiet):
        real = to_bytes(images)
        for metric, extractor in measures.sets.items():
            features.setdefault(("", metric), []).append(extractor(real)[0])
        for name, version in versions(images.to(tokenizer.device), count).items():
            decoded = to_bytes(tokenizer.decode(version))
            for metric, pair in measures.pairs.items():
                paired.setdefault((name, metric), []).append(pair.compute(decoded, real))
            for metric, extractor in measures.sets.items():
                features.setdefault((name, metric), []).append(extractor(decoded)[0])
        count += len(images)
    figures = []
    for name in dict.fromkeys(name for name, _ in [*paired, *features] if name):
        for metric, pair in measures.pairs.items():
            figures += _pair_figure(f"{name}, {metric}", np.concatenate(paired[name, metric]), pair)
        for metric, extractor in measures.sets.items():
            made, wanted = (np.concatenate(features[kind, metric]) for kind in (name, ""))
            found = _set_distance(metric, made, wanted)
            label = f"{name}, {metric}"
            figures.append(Figure(label, found.value, count, found.interval, extractor.name, ROUNDING))
    return figures


def _pair_figure(name: str, values: Values, metric: PairMetric) -> list[Figure]:
    """One figure; none if all pairs are identical, so that no value is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return []
    interval = bootstrap_interval(finite)
    return [Figure(name, float(finite.mean()), len(values), interval, metric.network, metric.rules)]


def _set_distance(metric: str, made: Values, real: Values) -> Estimate:
    if metric == "KID":
        return kernel_distance(real, made)
    value = frechet_clean_fid(statistics_of(made), statistics_of(real, "features of the real images"))
    return Estimate(value, paired_frechet_interval(value, made, real))
