"""Does a picture show what its prompt names? Its nearest real image should be of the same thing.

The same question on the real images' own reconstructions gives the ceiling: a generator cannot be more
recognisable than its image tokenizer lets it be.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart.data.records import main_caption
from openhart.errors import UserError
from openhart.evaluation.extractors import EfficientNetExtractor, Extractor, GradientExtractor
from openhart.evaluation.metrics.intervals import share_interval
from openhart.evaluation.metrics.pixels import to_bytes
from openhart.evaluation.metrics.retrieval import RANKS, retrieval_ranks
from openhart.evaluation.pictures import Images, generate, pairs_sheet, pooled_features, reconstruct
from openhart.evaluation.result import Figure, Result
from openhart.pipelines.hart import HartPipeline


def choose_things(records: Sequence[dict[str, Any]], count: int, seed: int) -> list[int]:
    """Indices of ``count`` records of different things on a white background, by chance.

    Raises:
        UserError: the data set has too few things, or a record without a caption.
    """
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: dict[str, int] = {}
    for index in order:
        record = records[index]
        if record.get("background", "white") == "white":
            chosen.setdefault(str(record.get("thing") or main_caption(record)), index)
        if len(chosen) == count:
            return list(chosen.values())
    raise UserError(
        f"the data set has {len(chosen)} different things and {count} are to be chosen: lower the count"
    )


def evaluate_retrieval(
    pipeline: HartPipeline,
    dataset: Any,
    count: int = 256,
    seed: int = 0,
    save_to: Path | None = None,
    quiet: bool = False,
    **call: Any,
) -> Result:
    """Generate one picture per prompt and look for it among the real ones; reconstruct those and do the same.

    Args:
        pipeline: makes the pictures.
        dataset: an image folder or another map-style data set; each chosen record's caption is a prompt.
        count: prompts, and real images to be found among.
        seed: chooses the records, and seeds picture i with ``seed + i``.
        save_to: a PNG of the first 64 pictures, each right of its real one.
        quiet: show no progress bar.
        call: passed on to the pipeline.

    Returns:
        figures ``top1`` and ``top5`` for each of two extractors: share of generated pictures whose own real
        image is the nearest, or among the five nearest; the same with ``reconstructed`` and ``codes`` in
        front for the real images' reconstructions with their true residual and from their codes alone.
    """
    if not hasattr(dataset, "known_records"):
        raise UserError("retrieval chooses its pictures by their records: give an image folder, not shards")
    if getattr(pipeline, "label_encoder", None) is not None:
        raise UserError("retrieval needs a model that takes prompts, this one takes classes")
    chosen = choose_things(list(dataset.known_records()), count, seed)
    samples = [dataset[index] for index in chosen]
    real = torch.stack([image for image, _ in samples])
    prompts = [main_caption(record) for _, record in samples]
    made = generate(pipeline, prompts, [seed + number for number in range(count)], quiet, **call)
    if save_to is not None:
        pairs_sheet(to_bytes(real), made).save(save_to)
    kinds = {"": made, "reconstructed ": reconstruct(pipeline.image_tokenizer, real)}
    if pipeline.image_tokenizer.hybrid:
        kinds["codes "] = reconstruct(pipeline.image_tokenizer, real, discrete=True)
    figures = retrieval_figures(to_bytes(real), kinds, [EfficientNetExtractor(), GradientExtractor()])
    return Result("retrieval", tuple(figures), {"seed": seed, "data": str(dataset.path), **call})


def retrieval_figures(
    real: Images, kinds: Mapping[str, Images], extractors: Sequence[Extractor]
) -> list[Figure]:
    """``top1`` and ``top5`` of aligned pictures, their names beginning with the key of ``kinds``."""
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
    """Two aligned batches (N, 3, H, W) in [−1, 1] → ``top1``, ``top5`` by EfficientNet-Lite0."""
    figures = retrieval_figures(to_bytes(real), {"": to_bytes(pictures)}, [EfficientNetExtractor()])
    return {figure.name: figure.value for figure in figures}
