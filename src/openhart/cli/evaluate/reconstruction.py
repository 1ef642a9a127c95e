"""``openhart evaluate reconstruction``: what the image tokenizer keeps of images."""

from argparse import Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import (
    Report,
    add_data,
    add_json_output,
    add_kind,
    open_tokenizer_and_data,
    report_of,
)
from openhart.cli.options import place


def add_reconstruction(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "reconstruction", measure,
        "Reconstruct images by the image tokenizer and compare them with the originals.",
        "data/emoji/test",
    )  # fmt: skip
    add_data(parser)
    add = parser.add_argument
    add(
        "--ssim", choices=["torchmetrics", "skimage", "llamagen"], default="torchmetrics",
        help="Program whose rule of SSIM is followed (default: torchmetrics).",
    )  # fmt: skip
    add("--lpips", choices=["alexnet", "vgg"], help="Also compute LPIPS with this network of torchvision.")
    add(
        "--inception", type=place, metavar="PTH",
        help="Also compute rFID with these weights of Inception, torch-fidelity's "
        "weights-inception-2015-12-05-6726825d.pth.",
    )  # fmt: skip
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Reconstruct every image, from the codes only and, of a hybrid tokenizer, with the residual."""
    tokenizer, dataset = open_tokenizer_and_data(options)
    from openhart.evaluation.benchmarks.reconstruction import evaluate_reconstruction
    from openhart.evaluation.networks.inception import InceptionExtractor

    inception = options.inception and InceptionExtractor(options.inception, find_device())
    result = evaluate_reconstruction(
        tokenizer, dataset, options.ssim, options.lpips, {"rFID": inception} if inception else None,
        quiet=options.quiet,
    )  # fmt: skip
    return report_of(result, options)
