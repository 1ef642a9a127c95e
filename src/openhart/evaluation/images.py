"""Images in memory: generation from prompts and seeds, reconstruction, and features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from openhart.evaluation.networks.extractors import Extractor
from openhart.image_io import grid, to_bytes
from openhart.randomness import seeded_generators
from openhart.tokenizer.base import ImageTokenizer

BATCH = 16
Images = NDArray[np.uint8]


def generate(
    pipeline: Any,
    conditions: Sequence[str | int],
    seeds: Sequence[int],
    quiet: bool = False,
    rounding: str = "round",
    batch_size: int = BATCH,
    **call: Any,
) -> Images:
    """Generate one image per condition: uint8 (N, H, W, 3).

    Args:
        pipeline: a diffusers pipeline that accepts a list of prompts (or ``class_labels``) and of generators.
        conditions: N prompts, or N class indices.
        seeds: one seed per image.
        quiet: show no progress bar.
        rounding: one of :data:`openhart.image_io.ROUNDING_RULES`.
        batch_size: number of images per call.
        call: further arguments of the pipeline call.
    """
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for start in tqdm(range(0, len(conditions), batch_size), desc="images", disable=quiet):
        part = list(conditions[start : start + batch_size])
        generators = seeded_generators(seeds[start : start + batch_size])
        given: tuple[Any, ...] = () if isinstance(part[0], int) else (part,)
        labels = {"class_labels": part} if isinstance(part[0], int) else {}
        images = pipeline(*given, **labels, generator=generators, output_type="pt", **call).images
        if isinstance(images, np.ndarray):  # some pipelines of diffusers have no tensors to return
            images = torch.from_numpy(images).permute(0, 3, 1, 2)
        made.append(to_bytes(images * 2 - 1, rounding))
    return np.concatenate(made)


@torch.no_grad()
def reconstruct(tokenizer: ImageTokenizer, images: torch.Tensor, version: str | None = None) -> Images:
    """Encode and decode images.

    Args:
        tokenizer: of any family.
        images: (N, 3, H, W) in [−1, 1].
        version: one of :meth:`ImageTokenizer.versions`; None for the last, which has the most information.

    Returns:
        uint8, (N, H, W, 3).
    """
    parts = []
    for part in images.split(BATCH):
        versions = tokenizer.versions(part.to(tokenizer.device))
        parts.append(to_bytes(tokenizer.decode(versions[version or list(versions)[-1]])))
    return np.concatenate(parts)


def pooled_features(extractor: Extractor, images: Images) -> NDArray[np.floating]:
    """Pooled features of images (N, H, W, 3): (N, D)."""
    return np.concatenate([extractor(images[at : at + BATCH])[0] for at in range(0, len(images), BATCH)])


def pairs_sheet(real: Images, made: Images) -> Image.Image:
    """A sheet of up to 64 real images, each with its generated image on the right; eight pairs per row.

    Only full rows are shown, except that fewer than eight pairs fill one row.
    """
    columns = min(8, len(real))
    count = min(64, len(real) // columns * columns)
    pairs = [Image.fromarray(each) for pair in zip(real[:count], made[:count], strict=True) for each in pair]
    return grid(pairs, 2 * columns)
