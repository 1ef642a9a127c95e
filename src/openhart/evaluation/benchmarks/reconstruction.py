"""Reconstruction quality of the image tokenizer, from codes only and from complete features."""

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
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import Quantized


def evaluate_reconstruction(
    tokenizer: HybridTokenizer,
    dataset: Dataset[Any],
    ssim: str = "torchmetrics",
    lpips: str | None = None,
    extractors: Mapping[str, Extractor] | None = None,
    batch_size: int = 32,
    quiet: bool = False,
) -> Result:
    """Reconstruct every image of a data set from its codes only and from its continuous features.

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
        for ``codes only`` and ``complete features`` the figures ``PSNR`` in dB, ``SSIM``, ``LPIPS``, ``FD``
        (112 features of EfficientNet-Lite0), ``KID`` (1,280 features) and those of ``extractors``, with
        bootstrap intervals over images. The reference is the same set of images.

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
        "KID": EfficientNetExtractor(),
        **(extractors or {}),
    }

    def versions(features: Tensor, quantized: Quantized, _: int) -> Mapping[str, Tensor]:
        return {"codes only": quantized.f_hats[-1], "complete features": features}

    measures = Measures(pairs, sets)
    figures = decoded_figures(tokenizer, dataset, versions, batch_size, quiet, measures)
    return Result("reconstruction", tuple(figures))
