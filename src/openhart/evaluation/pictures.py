"""Pictures to measure: generated ones from prompts and seeds, real ones, and their reconstructions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from openhart.evaluation.extractors import Extractor
from openhart.evaluation.metrics.pixels import to_bytes

BATCH = 16
Images = NDArray[np.uint8]


def generate(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], quiet: bool = False, **call: Any
) -> Images:
    """One picture per prompt, rounded to bytes: (N, H, W, 3).

    Args:
        pipeline: any pipeline of diffusers' signature that takes a list of prompts and of generators.
        prompts: N texts.
        seeds: of each picture.
        quiet: show no progress bar.
        call: passed on to the pipeline.
    """
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for start in tqdm(range(0, len(prompts), BATCH), desc="pictures", disable=quiet):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + BATCH]]
        part = list(prompts[start : start + BATCH])
        images = pipeline(part, generator=generators, output_type="pt", **call).images
        made.append(to_bytes(images * 2 - 1))
    return np.concatenate(made)


@torch.no_grad()
def reconstruct(tokenizer: Any, images: torch.Tensor, discrete: bool = False) -> Images:
    """Images (N, 3, H, W) in [−1, 1] through the image tokenizer, rounded to bytes: (N, H, W, 3)."""
    parts = [
        to_bytes(tokenizer(part.to(tokenizer.device), discrete=discrete or not tokenizer.hybrid))
        for part in images.split(BATCH)
    ]
    return np.concatenate(parts)


def pooled_features(extractor: Extractor, images: Images) -> NDArray[np.floating]:
    """Pooled features of images (N, H, W, 3): (N, D)."""
    return np.concatenate([extractor(images[at : at + BATCH])[0] for at in range(0, len(images), BATCH)])


def pairs_sheet(real: Images, made: Images) -> Image.Image:
    """Up to 64 real pictures, each with the made one at its right, eight pairs per row."""
    pairs = np.concatenate([real[:64], made[:64]], axis=2)
    rows = [np.concatenate(list(pairs[at : at + 8]), axis=1) for at in range(0, len(pairs) // 8 * 8, 8)]
    return Image.fromarray(np.concatenate(rows or list(pairs[:1]), axis=0))
