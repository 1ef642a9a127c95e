"""Retrieval: is the real image that is nearest to a generated image the one with the same caption?

The same measurement on reconstructions of the real images is the upper bound that the image tokenizer sets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart.data.sample import Sample
from openhart.errors import UserError
from openhart.evaluation.images import Images, generate, pairs_sheet, pooled_features, reconstruct
from openhart.evaluation.metrics.intervals import share_interval
from openhart.evaluation.metrics.retrieval import RANKS, retrieval_ranks
from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor, retrieval_extractors
from openhart.evaluation.result import Figure, Result
from openhart.image_io import to_bytes
from openhart.randomness import mixed_generator
from openhart.tokenizer.base import CODES


def choose_things(samples: Sequence[Sample], count: int, seed: int) -> list[int]:
    """Choose ``count`` samples of different things on a white background at random; returns their indices.

    Raises:
        UserError: the data set has too few things, or a sample has no caption.
    """
    order = torch.randperm(len(samples), generator=mixed_generator(seed)).tolist()
    chosen: dict[str, int] = {}
    for index in order:
        sample = samples[index]
        if sample.fields.get("background", "white") == "white":
            chosen.setdefault(str(sample.fields.get("thing") or sample.main_caption), index)
        if len(chosen) == count:
            return list(chosen.values())
    raise UserError(
        f"the data set has only {len(chosen)} different things, but the count is {count}: lower the count"
    )


def evaluate_retrieval(
    pipeline: Any,
    dataset: Any,
    count: int = 256,
    seed: int = 0,
    save_to: Path | None = None,
    quiet: bool = False,
    **call: Any,
) -> Result:
    """Generate one image per prompt and retrieve its real image; do the same with reconstructions.

    Args:
        pipeline: generates the images; it takes prompts.
        dataset: an image folder or another map-style data set; captions of its records are the prompts.
        count: number of prompts and of real images.
        seed: determines the choice of records; image i is generated with ``seed + i``.
        save_to: path of a PNG with the first 64 images, each on the right of its real image.
        quiet: show no progress bar.
        call: further arguments of the pipeline call.

    Returns:
        figures ``top1`` and ``top5`` for each of :func:`retrieval_extractors`: the fraction of generated
        images whose real image is the nearest, or among the five nearest. The prefixes ``reconstructed`` and
        ``codes`` mark the same figures for reconstructions of the real images with their true residual and
        from codes only.

    Raises:
        UserError: the data set has no records that can be chosen, or the model takes no prompts.
    """
    if not hasattr(dataset, "all_samples"):
        raise UserError("retrieval chooses images by their records: give an image folder, not shards")
    chosen = choose_things(list(dataset.all_samples()), count, seed)
    samples = [dataset[index] for index in chosen]
    real = torch.stack([image for image, _ in samples])
    prompts = [sample.main_caption for _, sample in samples]
    made = generate(pipeline, prompts, [seed + number for number in range(count)], quiet, **call)
    if save_to is not None:
        pairs_sheet(to_bytes(real), made).save(save_to)
    tokenizer = pipeline.image_tokenizer
    kinds = {"": made, "reconstructed ": reconstruct(tokenizer, real)}
    with torch.no_grad():
        *poorer, _ = tokenizer.versions(real[:1].to(tokenizer.device))
    if CODES in poorer:
        kinds["codes "] = reconstruct(tokenizer, real, CODES)
    figures = retrieval_figures(to_bytes(real), kinds, retrieval_extractors())
    return Result("retrieval", tuple(figures), {"seed": seed, "data": str(dataset.path), **call})


def retrieval_figures(
    real: Images, kinds: Mapping[str, Images], extractors: Sequence[Extractor]
) -> list[Figure]:
    """``top1`` and ``top5`` of aligned sets of images; the keys of ``kinds`` are prefixes of the names."""
    figures = []
    for extractor in extractors:
        wanted = pooled_features(extractor, real)
        for kind, pictures in kinds.items():
            ranks = retrieval_ranks(pooled_features(extractor, pictures), wanted)
            for name, first in RANKS.items():
                hits = int((ranks < first).sum())
                figures.append(
                    Figure(
                        f"{kind}{name}",
                        hits / len(real),
                        len(real),
                        share_interval(hits, len(real)),
                        extractor.name,
                    )
                )
    return figures


def retrieval_accuracy(real: Tensor, pictures: Tensor) -> dict[str, float]:
    """Two aligned batches (N, 3, H, W) in [−1, 1] → ``top1`` and ``top5`` by EfficientNet-Lite0."""
    figures = retrieval_figures(to_bytes(real), {"": to_bytes(pictures)}, [EfficientNetExtractor()])
    return {figure.name: figure.value for figure in figures}
