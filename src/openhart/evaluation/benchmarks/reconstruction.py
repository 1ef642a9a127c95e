"""Reconstruction quality of the image tokenizer, from codes only and with the residual."""

from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from openhart.data import collate
from openhart.evaluation.metrics.distances import SetComparison, psnr
from openhart.tokenizer.model import HybridTokenizer


@torch.no_grad()
def evaluate_reconstruction(
    tokenizer: HybridTokenizer, dataset: Dataset[Any], batch_size: int = 32, quiet: bool = False
) -> dict[str, Any]:
    """Reconstruct every image of a data set from its codes only and from its continuous features.

    Args:
        tokenizer: the image tokenizer.
        dataset: map-style, of images (3, H, W) in [−1, 1] and records.
        batch_size: images per batch.
        quiet: show no progress bar.

    Returns:
        ``images`` and, for ``discrete`` and ``hybrid``: mean ``psnr`` in dB, ``frechet`` and ``kid``
        between reconstructed and real images (see :class:`SetDistances`).
    """
    comparisons = {kind: SetComparison() for kind in ("discrete", "hybrid")}
    ratios: dict[str, list[torch.Tensor]] = {kind: [] for kind in comparisons}
    count = 0
    loader = DataLoader(dataset, batch_size, collate_fn=collate)
    for cpu_images, _ in tqdm(loader, desc="reconstruction", disable=quiet):
        images = cpu_images.to(tokenizer.device)
        features = tokenizer.encode(images)
        made = {
            "discrete": tokenizer.decode(tokenizer.quantize(features).f_hats[-1]),
            "hybrid": tokenizer.decode(features),
        }
        for kind, comparison in comparisons.items():
            comparison.add(images, real=True)
            comparison.add(made[kind], real=False)
            ratios[kind].append(psnr(made[kind], images))
        count += len(images)
    report: dict[str, Any] = {"images": count}
    for kind, comparison in comparisons.items():
        mean = float(torch.cat(ratios[kind]).mean())
        report[kind] = {"psnr": mean, **asdict(comparison.distances())}
    return report
