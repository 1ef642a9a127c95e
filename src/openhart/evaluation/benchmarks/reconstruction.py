"""Reconstruction quality of an image tokenizer of any family."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from openhart.errors import UserError
from openhart.evaluation.benchmarks.decoded import PSNR, ROUNDING, Measures, PairMetric, decoded_figures
from openhart.evaluation.metrics.lpips import LPIPS_RULES, lpips_each
from openhart.evaluation.metrics.pixels import SSIM_RULES
from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor, MiddleExtractor
from openhart.evaluation.result import Result
from openhart.perceptual import LITE2
from openhart.tokenizer.base import ImageTokenizer


def evaluate_reconstruction(
    tokenizer: ImageTokenizer,
    dataset: Dataset[Any],
    ssim: str = "torchmetrics",
    lpips: str | None = None,
    extractors: Mapping[str, Extractor] | None = None,
    batch_size: int = 32,
    quiet: bool = False,
) -> Result:
    """Reconstruct every image of a data set from each version of its features that the tokenizer decodes.

    Args:
        tokenizer: the image tokenizer.
        dataset: images (3, H, W) in [−1, 1] with records.
        ssim: one of :data:`openhart.evaluation.metrics.pixels.SSIM_RULES`.
        lpips: one of :data:`openhart.evaluation.metrics.lpips.LPIPS_RULES`; None omits LPIPS.
        extractors: networks of further distances between sets by the names of their figures, such as
            ``rFID``.
        batch_size: images per batch.
        quiet: show no progress bar.

    Returns:
        for each of :meth:`ImageTokenizer.versions`, such as ``codes only``, the figures ``PSNR`` in dB,
        ``SSIM``, ``LPIPS``, ``FD`` (112 features of EfficientNet-Lite0), ``FD-Lite2`` (120 features of a
        network that no loss uses), ``KID`` (1,280 features) and those of ``extractors``, with bootstrap
        intervals over images. The reference is the same set of images.

    Raises:
        UserError: there is no such rule, or LPIPS cannot be loaded.
    """
    for name, given, rules in (("SSIM", ssim, SSIM_RULES), ("LPIPS", lpips, LPIPS_RULES)):
        if given is not None and given not in rules:
            raise UserError(f"the {name} rule must be one of {', '.join(rules)}, got {given!r}")
    pairs = {"PSNR": PSNR, "SSIM": PairMetric(SSIM_RULES[ssim], {**ROUNDING, "rule": ssim})}
    if lpips is not None:
        pairs["LPIPS"] = PairMetric(partial(lpips_each, rule=lpips), ROUNDING, f"LPIPS of {lpips}")
    sets: dict[str, Extractor] = {
        "FD": MiddleExtractor(),
        "FD-Lite2": MiddleExtractor(LITE2),
        "KID": EfficientNetExtractor(),
        **(extractors or {}),
    }

    def versions(images: Tensor, _: int) -> Mapping[str, Tensor]:
        return tokenizer.versions(images)

    figures = decoded_figures(tokenizer, dataset, versions, batch_size, quiet, Measures(pairs, sets))
    return Result("reconstruction", tuple(figures))
