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
    inception_score_torch_fidelity,
)
from openhart.evaluation.metrics.precision_recall import precision_recall_guided_diffusion
from openhart.evaluation.networks.extractors import Extractor
from openhart.evaluation.npz_files import BatchFile
from openhart.evaluation.result import Figure, Result

BATCH = 64
Features = NDArray[np.floating]


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
    manifold = precision_recall_guided_diffusion(real, made)
    rules: dict[str, Any] = {"program": "guided-diffusion", "reference": reference.path.name}
    values = {
        _distance_name(extractor): frechet_guided_diffusion(
            sample.pool or statistics_of(made, "sample features"),
            reference.pool or statistics_of(real, "reference features"),
        )
    }
    pool_alone = any(batch.pool and not batch.spatial for batch in (reference, sample))
    if real_spatial is not None and made_spatial is not None and not pool_alone:
        values["sFID"] = frechet_guided_diffusion(
            sample.spatial or statistics_of(made_spatial, "spatial features of the sample"),
            reference.spatial or statistics_of(real_spatial, "spatial features of the reference"),
        )
    if extractor.softmax_weight is not None:
        values["IS"] = inception_score_guided_diffusion(made, extractor.softmax_weight, part_size)
    values |= {"precision": manifold.precision, "recall": manifold.recall}
    return _result("imagenet", values, len(made), extractor, rules)


def evaluate_mar(
    reference: Statistics, sample: BatchFile, extractor: Extractor, quiet: bool = False
) -> Result:
    """Compute the two figures of MAR, FID and inception score, by torch-fidelity's rules.

    Raises:
        UserError: the file has no images, or features do not fit the stored statistics.
    """
    made, _ = features_of(sample, extractor, quiet)
    values = {_distance_name(extractor): frechet_torch_fidelity(statistics_of(made), reference)}
    if extractor.softmax_weight is not None:
        values["IS"], _ = inception_score_torch_fidelity(made, extractor.softmax_weight)
    return _result("imagenet-mar", values, len(made), extractor, {"program": "torch-fidelity"})


def features_of(
    batch: BatchFile, extractor: Extractor, quiet: bool = False
) -> tuple[Features, Features | None]:
    """Compute pooled and spatial features of all images of a file, in file order."""
    if batch.shape is None:
        raise UserError(f"{batch.path} contains statistics but no images: precision and recall need images")
    pooled, spatial = [], []
    for images in tqdm(batch.batches(BATCH), total=-(-batch.shape[0] // BATCH), disable=quiet):
        part, spatial_part = extractor(images)
        pooled.append(part)
        if spatial_part is not None:
            spatial.append(spatial_part)
    features = np.concatenate(pooled)
    check_features(features, f"features of {batch.path}")
    return features, np.concatenate(spatial) if spatial else None


def _distance_name(extractor: Extractor) -> str:
    return "FID" if extractor.name.startswith("Inception 2015") else "FD"


def _result(
    name: str, values: dict[str, float], count: int, extractor: Extractor, rules: dict[str, Any]
) -> Result:
    figures = (Figure(key, value, count, None, extractor.name, rules) for key, value in values.items())
    return Result(name, tuple(figures))
