"""Reconstruction from the codes of the first scales only: how the quality grows from coarse to fine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from openhart.atomic import written_whole
from openhart.errors import UserError
from openhart.evaluation.benchmarks.decoded import decoded_figures
from openhart.evaluation.result import Result
from openhart.tokenizer.base import COMPLETE, CodeTokenizer


def evaluate_scales(
    tokenizer: CodeTokenizer, dataset: Dataset[Any], batch_size: int = 16, quiet: bool = False
) -> Result:
    """Decode the features after each scale, and the complete features.

    Args:
        tokenizer: the image tokenizer.
        dataset: images (3, H, W) in [−1, 1] with records.
        batch_size: images per batch.
        quiet: show no progress bar.

    Returns:
        figures ``k of K scales, PSNR`` and ``… FD`` for each k, and the same for ``complete features``;
        details have the ``scales``, height and width in codes.

    Raises:
        UserError: if the tokenizer has one scale.
    """
    total = len(tokenizer.quantizer.scales)
    if total == 1:
        raise UserError("this image tokenizer has one scale only: use openhart evaluate reconstruction")

    def versions(images: Tensor, _: int) -> Mapping[str, Tensor]:
        features = tokenizer.encode(images)
        f_hats = tokenizer.quantize(features).f_hats
        found = {_name(index + 1, total): each for index, each in enumerate(f_hats)}
        return found | {COMPLETE: features}

    figures = decoded_figures(tokenizer, dataset, versions, batch_size, quiet)
    return Result("scales", tuple(figures), details={"scales": [list(s) for s in tokenizer.quantizer.scales]})


def plot_scales(result: Result, path: Path) -> None:
    """Draw PSNR and Fréchet distance over the number of scales.

    Args:
        result: the result of :func:`evaluate_scales`.
        path: the image file; it appears only when it is complete.
    """
    from matplotlib.figure import Figure as Plot

    scales = result.details["scales"]
    numbers = list(range(1, len(scales) + 1))
    plot = Plot(figsize=(8, 3.2), layout="constrained")
    for axes, (metric, unit) in zip(plot.subplots(1, 2), (("PSNR", "dB"), ("FD", None)), strict=True):
        values = [result.figure(f"{_name(number, len(scales))}, {metric}").value for number in numbers]
        axes.plot(numbers, values, marker="o", label="codes of the first scales")
        complete = result.figure(f"{COMPLETE}, {metric}").value
        axes.axhline(complete, linestyle="--", color="0.5", label=COMPLETE)
        axes.set_xticks(numbers, [f"{height}×{width}" for height, width in scales], rotation=45)
        axes.set_xlabel("last scale that is decoded, in codes")
        axes.set_ylabel(metric if unit is None else f"{metric} in {unit}")
        axes.legend()
    with written_whole(path) as temporary:
        plot.savefig(temporary)


def _name(number: int, total: int) -> str:
    return f"{number} of {total} scales"
