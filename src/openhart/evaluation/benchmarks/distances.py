"""Distances between two folders of images: Fréchet distance and KID, FD-DINOv2, CMMD."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from openhart.errors import UserError
from openhart.evaluation.image_folders import Crop, find_images, read_batches
from openhart.evaluation.metrics.cmmd import cmmd
from openhart.evaluation.metrics.frechet import frechet_clean_fid, statistics_of
from openhart.evaluation.metrics.influence import frechet_interval
from openhart.evaluation.metrics.intervals import Estimate
from openhart.evaluation.metrics.kernel import kernel_distance
from openhart.evaluation.metrics.resizing import CROPS
from openhart.evaluation.networks.extractors import Extractor
from openhart.evaluation.result import Figure, Result

Features = NDArray[np.floating]
METRICS = ("FD", "KID", "FD-DINOv2", "CMMD")


def evaluate_distances(
    sample: Path,
    reference: Path,
    extractors: Mapping[str, Extractor],
    crop: tuple[str, int] | None = None,
    skip_broken: bool = False,
    quiet: bool = False,
) -> Result:
    """Compare the images below two folders.

    Args:
        sample: folder of generated images.
        reference: folder of real images.
        extractors: the network of each metric; the keys are among :data:`METRICS`.
        crop: rule of :data:`openhart.evaluation.metrics.resizing.CROPS` and side in pixels, applied to both
            sets; None keeps the images as they are.
        skip_broken: whether unreadable images are skipped and listed, and not refused.
        quiet: show no progress bar.

    Returns:
        one figure per metric; details have the number of reference images and the skipped images.

    Raises:
        UserError: a folder has no images, an image cannot be read, or there are too few images.
    """
    cut = None if crop is None else _crop(*crop)
    broken: list[str] | None = [] if skip_broken else None
    made, real = (
        _features(find_images(folder), extractors, cut, broken, quiet) for folder in (sample, reference)
    )
    counts = [len(next(iter(features.values()))) for features in (made, real)]
    rules: dict[str, Any] = {"reference_images": counts[1]}
    rules["crop"] = "none" if crop is None else f"{crop[0]} to {crop[1]}"
    figures = []
    for name, extractor in extractors.items():
        found = set_distance(name, real[name], made[name])
        figures.append(Figure(name, found.value, counts[0], found.interval, extractor.name, rules))
    return Result("distances", tuple(figures), {}, {"skipped": broken or []})


def _crop(rule: str, size: int) -> Crop:
    return lambda image: CROPS[rule](image, size)


def _features(
    paths: list[Path],
    extractors: Mapping[str, Extractor],
    crop: Crop | None,
    broken: list[str] | None,
    quiet: bool,
) -> dict[str, Features]:
    found: dict[str, list[Features]] = {name: [] for name in extractors}
    with tqdm(total=len(paths), desc="images", disable=quiet) as progress:
        for images in read_batches(paths, crop, broken):
            computed: dict[int, Features] = {}
            for name, extractor in extractors.items():
                if id(extractor) not in computed:
                    computed[id(extractor)] = extractor(images)[0]
                found[name].append(computed[id(extractor)])
            progress.update(len(images))
    if any(not parts for parts in found.values()):
        raise UserError(f"none of the {len(paths)} images below {paths[0].parent} can be read")
    return {name: np.concatenate(parts) for name, parts in found.items()}


def set_distance(metric: str, real: Features, made: Features) -> Estimate:
    """A distance between two sets of features, with its interval over the samples.

    Args:
        metric: ``KID``, ``CMMD``, or another name for a Fréchet distance by the rule of clean-fid.
        real: (N, D).
        made: (M, D).
    """
    if metric == "CMMD":
        return cmmd(real, made)
    if metric == "KID":
        return kernel_distance(real, made)
    reference = statistics_of(real, "reference features")
    own = statistics_of(made, "sample features")
    value = frechet_clean_fid(own, reference)
    return Estimate(value, frechet_interval(value, made, own, reference))
