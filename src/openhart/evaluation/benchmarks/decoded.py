"""Figures of images that are decoded from several versions of the same features."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.evaluation.metrics.frechet import frechet_clean_fid, statistics_of
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.metrics.pixels import psnr_each
from openhart.evaluation.networks.extractors import Extractor, MiddleExtractor
from openhart.evaluation.result import Figure
from openhart.image_io import to_bytes
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import Quantized

Versions = Callable[[Tensor, Quantized, int], Mapping[str, Tensor]]


@torch.no_grad()
def decoded_figures(
    tokenizer: HybridTokenizer,
    dataset: Dataset[Any],
    versions: Versions,
    batch_size: int = 16,
    quiet: bool = False,
    extractor: Extractor | None = None,
) -> list[Figure]:
    """PSNR and Fréchet distance between real images and images decoded from each version of their features.

    Args:
        tokenizer: the image tokenizer.
        dataset: images (3, H, W) in [−1, 1] with records.
        versions: features (B, z, h, w), their quantization and the index of the batch's first image →
            features to decode, by name.
        batch_size: images per batch.
        quiet: show no progress bar.
        extractor: network of the Fréchet distance; None means block 10 of EfficientNet-Lite0.

    Returns:
        for each version ``NAME, PSNR`` in dB, with a bootstrap interval over images, and ``NAME, FD``.
    """
    extractor = extractor or MiddleExtractor()
    ratios: dict[str, list[Any]] = {}
    made: dict[str, list[Any]] = {}
    wanted: list[Any] = []
    count = 0
    for images, _ in tqdm(DataLoader(dataset, batch_size, collate_fn=collate), desc="images", disable=quiet):
        features = tokenizer.encode(images.to(tokenizer.device))
        real = to_bytes(images)
        wanted.append(extractor(real)[0])
        for name, version in versions(features, tokenizer.quantize(features), count).items():
            decoded = to_bytes(tokenizer.decode(version))
            ratios.setdefault(name, []).append(psnr_each(decoded, real))
            made.setdefault(name, []).append(extractor(decoded)[0])
        count += len(images)
    reference = statistics_of(np.concatenate(wanted), "features of the real images")
    figures = []
    for name, parts in ratios.items():
        finite = np.concatenate(parts)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            interval = bootstrap_interval(finite)
            figures.append(Figure(f"{name}, PSNR", float(finite.mean()), count, interval, rules=PSNR_RULES))
        distance = frechet_clean_fid(statistics_of(np.concatenate(made[name])), reference)
        figures.append(Figure(f"{name}, FD", distance, count, None, extractor.name, {"rounding": "round"}))
    return figures


PSNR_RULES = {"rounding": "round", "mean": "of the ratios per image"}
