"""Distances between aligned images, in named conventions.

All functions take images as uint8 (N, H, W, 3), as they are stored in files.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from openhart.errors import UserError, require

Images = NDArray[np.uint8]
Ratios = NDArray[np.float64]
WINDOW = 7


def check_pairs(images: Images, references: Images) -> None:
    """Refuse images that cannot be compared pixel by pixel.

    Raises:
        UserError: the arrays are not uint8 (N, H, W, 3) of one shape.
    """
    for pictures in (images, references):
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures):
            raise UserError(
                f"images must be uint8 of shape (N, H, W, 3), got {pictures.dtype} {pictures.shape}"
            )
    if images.shape != references.shape:
        raise UserError(
            f"images that are compared must have the same shape, got {images.shape} and {references.shape}"
        )


def psnr_each(images: Images, references: Images) -> Ratios:
    """Peak signal-to-noise ratio of each image in dB, (N,); infinite where two are identical."""
    check_pairs(images, references)
    difference = images.astype(np.float64) - references
    with np.errstate(divide="ignore"):
        ratios: Ratios = 10 * np.log10(255**2 / np.square(difference).mean(axis=(1, 2, 3)))
    return ratios


def mean_psnr(images: Images, references: Images) -> float:
    """Mean of the ratios per image (DC-AE, LightningDiT, LlamaGen), not the ratio of the mean error.

    Identical pairs are omitted; the result is infinite if all pairs are identical.
    """
    ratios = psnr_each(images, references)
    finite = ratios[np.isfinite(ratios)]
    return float(finite.mean()) if len(finite) else math.inf


def ssim_torchmetrics(images: Images, references: Images) -> Ratios:
    """Structural similarity (Wang et al. 2004) of each image, (N,), by the rule of DC-AE: Gaussian window,
    range 255.

    Raises:
        UserError: torchmetrics is not installed, or :func:`check_pairs` refuses the images.
    """
    check_pairs(images, references)
    require("torchmetrics", extra="eval")
    from torchmetrics.functional.image import structural_similarity_index_measure

    pair = [torch.from_numpy(pictures).permute(0, 3, 1, 2).float() for pictures in (images, references)]
    result: Any = structural_similarity_index_measure(pair[0], pair[1], data_range=255.0, reduction="none")
    return np.asarray(result, np.float64).reshape(-1)


def ssim_skimage(images: Images, references: Images) -> Ratios:
    """The same by scikit-image: uniform 7×7 window, images in [0, 1], data range 1."""
    return _uniform_ssim(images, references, data_range=1.0)


def ssim_llamagen(images: Images, references: Images) -> Ratios:
    """The same with the data range of LlamaGen: 2 for images in [0, 1], so the result is too high."""
    return _uniform_ssim(images, references, data_range=2.0)


SSIM_RULES: dict[str, Callable[[Images, Images], Ratios]] = {
    "torchmetrics": ssim_torchmetrics,
    "skimage": ssim_skimage,
    "llamagen": ssim_llamagen,
}


def _uniform_ssim(images: Images, references: Images, data_range: float) -> Ratios:
    check_pairs(images, references)
    if min(images.shape[1:3]) < WINDOW:
        raise UserError(
            f"SSIM needs images of at least {WINDOW} pixels per side, got {images.shape[2]}×{images.shape[1]}"
        )
    return np.array([_ssim(a / 255, b / 255, data_range) for a, b in zip(images, references, strict=True)])


def _ssim(first: NDArray[np.float64], second: NDArray[np.float64], data_range: float) -> float:
    """Two images (H, W, 3) → mean over channels and over the pixels whose window lies inside."""

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        margin = WINDOW // 2
        means: NDArray[np.float64] = uniform_filter(values, (WINDOW, WINDOW, 0))
        return means[margin:-margin, margin:-margin]

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mean_a, mean_b = local_mean(first), local_mean(second)
    variance_a = unbiased * (local_mean(first * first) - mean_a * mean_a)
    variance_b = unbiased * (local_mean(second * second) - mean_b * mean_b)
    covariance = unbiased * (local_mean(first * second) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())
