"""Similarity of images and their prompts by a CLIP model, the basis of CLIP score and HPSv2."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from openhart.data.decoding import read_image
from openhart.errors import UserError
from openhart.evaluation.metrics.intervals import Estimate, bootstrap_interval
from openhart.evaluation.networks.clip import ImageTextModel

BATCH = 16
SCALE = 100.0
RULES = {"scale": "100 · cosine", "mean": "of all images, not clamped"}


def similarities(
    model: ImageTextModel,
    paths: Sequence[Path],
    prompts: Sequence[str],
    prepare: Callable[[Image.Image], Image.Image] | None = None,
    quiet: bool = False,
) -> NDArray[np.float64]:
    """100 times the cosine of each image and its prompt, (N,).

    Args:
        model: a CLIP model with its own preprocessing.
        paths: N image files.
        prompts: N prompts; the model truncates long ones.
        prepare: applied to every image before the model's preprocessing.
        quiet: show no progress bar.

    Raises:
        UserError: an image cannot be read, or features are not finite.
    """
    found: list[float] = []
    for start in tqdm(range(0, len(paths), BATCH), desc="similarity", disable=quiet):
        images = [read_image(path) for path in paths[start : start + BATCH]]
        seen = model.image_features([prepare(image) for image in images] if prepare else images)
        meant = model.text_features(prompts[start : start + BATCH])
        found += F.cosine_similarity(seen.float(), meant.float(), dim=-1).tolist()
    values = SCALE * np.array(found)
    if not np.isfinite(values).all():
        first = paths[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise UserError(
            f"the features of {first} or of its prompt are not finite: check the weights of {model.name}"
        )
    return values


def mean_similarity(values: NDArray[np.float64]) -> Estimate:
    """Mean over images with its bootstrap interval."""
    return Estimate(float(values.mean()), bootstrap_interval(values))
