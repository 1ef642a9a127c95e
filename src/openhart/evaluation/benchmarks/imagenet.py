"""Class-conditional ImageNet by the rules of ADM: FID, sFID, inception score, precision and recall.

On the same features, the figures equal those of guided-diffusion's ``evaluations/evaluator.py``.
:func:`evaluate_mar` computes the two figures of MAR by the rules of torch-fidelity.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from openhart.errors import UserError
from openhart.evaluation.metrics.frechet import (
    Statistics,
    check_features,
    frechet_guided_diffusion,
    frechet_torch_fidelity,
    statistics_of,
)
from openhart.evaluation.metrics.inception_score import (
    inception_score_guided_diffusion,
    inception_score_interval,
    inception_score_torch_fidelity,
    parts_in_order,
    parts_shuffled,
)
from openhart.evaluation.metrics.influence import frechet_interval
from openhart.evaluation.metrics.intervals import share_interval
from openhart.evaluation.metrics.precision_recall import precision_recall_guided_diffusion
from openhart.evaluation.networks.extractors import Extractor
from openhart.evaluation.networks.inception import NAME as INCEPTION
from openhart.evaluation.npz_files import BatchFile
from openhart.evaluation.result import Figure, Result

BATCH = 64
Features = NDArray[np.floating]
Measured = tuple[float, tuple[float, float] | None]


def evaluate_adm(
    reference: BatchFile, sample: BatchFile, extractor: Extractor, part_size: int = 5000, quiet: bool = False
) -> Result:
    """Compute the five figures of ADM for a sample file.

    Args:
        reference: a file with images, which precision and recall need, and usually with stored statistics.
        sample: a file with images. As published, statistics that it stores replace computed ones.
        extractor: Inception, or another network, whose name is then part of the result.
        part_size: number of images per part of the inception score.
        quiet: show no progress bar.

    Returns:
        figures ``FID`` (``FD`` if the network is not Inception), ``precision`` and ``recall``; ``sFID`` if
        the network has spatial features and no file stores pooled statistics only; ``IS`` if the network has
        a classifier.

    Raises:
        UserError: a file has no images, or the stored statistics belong to features of another length.
    """
    real, real_spatial = features_of(reference, extractor, quiet)
    made, made_spatial = features_of(sample, extractor, quiet)
    found: dict[str, Measured] = {
        distance_name(extractor): _frechet(sample.pool, made, reference.pool, real, "features")
    }
    pool_alone = any(batch.pool and not batch.spatial for batch in (reference, sample))
    if real_spatial is not None and made_spatial is not None and not pool_alone:
        found["sFID"] = _frechet(
            sample.spatial, made_spatial, reference.spatial, real_spatial, "spatial features"
        )
    if extractor.softmax_weight is not None:
        score = inception_score_guided_diffusion(made, extractor.softmax_weight, part_size)
        parts = parts_in_order(len(made), part_size)
        found["IS"] = score, inception_score_interval(score, made, extractor.softmax_weight, parts)
    manifold = precision_recall_guided_diffusion(real, made)
    for name, share, count in (
        ("precision", manifold.precision, len(made)),
        ("recall", manifold.recall, len(real)),
    ):
        found[name] = share, share_interval(round(share * count), count)
    rules: dict[str, Any] = {"program": "guided-diffusion", "reference": reference.path.name}
    return _result("imagenet", found, len(made), extractor, rules)


def _frechet(
    sample: Statistics | None, made: Features, reference: Statistics | None, real: Features, name: str
) -> Measured:
    """Fréchet distance by ADM's rule; stored statistics replace those of the features.

    A sample whose statistics are stored gets no interval, because they need not be those of its images.
    """
    wanted = reference or statistics_of(real, f"{name} of the reference")
    own = sample or statistics_of(made, f"{name} of the sample")
    value = frechet_guided_diffusion(own, wanted)
    return value, None if sample else frechet_interval(value, made, own, wanted)


def evaluate_mar(
    reference: Statistics, sample: BatchFile, extractor: Extractor, quiet: bool = False
) -> Result:
    """Compute the two figures of MAR, FID and inception score, by torch-fidelity's rules.

    Raises:
        UserError: the file has no images, or features do not fit the stored statistics.
    """
    made, _ = features_of(sample, extractor, quiet)
    own = statistics_of(made)
    distance = frechet_torch_fidelity(own, reference)
    found: dict[str, Measured] = {
        distance_name(extractor): (distance, frechet_interval(distance, made, own, reference))
    }
    if (weight := extractor.softmax_weight) is not None:
        score, _ = inception_score_torch_fidelity(made, weight)
        found["IS"] = score, inception_score_interval(score, made, weight, parts_shuffled(len(made)))
    return _result("imagenet-mar", found, len(made), extractor, {"program": "torch-fidelity"})


def features_of(
    batch: BatchFile, extractor: Extractor, quiet: bool = False
) -> tuple[Features, Features | None]:
    """Compute pooled and spatial features of all images of a file, in file order."""
    if batch.shape is None:
        raise UserError(f"{batch.path} contains statistics but no images: precision and recall need images")
    count = batch.shape[0]
    pooled: Features | None = None
    spatial: Features | None = None
    start = 0
    for images in tqdm(batch.batches(BATCH), total=-(-count // BATCH), disable=quiet):
        part, spatial_part = extractor(images)
        rows = slice(start, start + len(part))
        start += len(part)
        pooled = np.empty((count, *part.shape[1:]), part.dtype) if pooled is None else pooled
        pooled[rows] = part
        if spatial_part is not None:
            spatial = np.empty((count, *spatial_part.shape[1:]), np.float32) if spatial is None else spatial
            spatial[rows] = spatial_part
    assert pooled is not None
    check_features(pooled, f"features of {batch.path}")
    return pooled, spatial


def distance_name(extractor: Extractor) -> str:
    """``FID`` for Inception, ``FD`` for every other network."""
    return "FID" if extractor.name.startswith(INCEPTION) else "FD"


def _result(
    name: str, found: dict[str, Measured], count: int, extractor: Extractor, rules: dict[str, Any]
) -> Result:
    figures = (
        Figure(key, value, count, interval, extractor.name, rules) for key, (value, interval) in found.items()
    )
    return Result(name, tuple(figures))
