"""``openhart evaluate distances``: two folders of images."""

from argparse import Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import UsageError, named, place, whole
from openhart.errors import require


def add_distances(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "distances", measure,
        "Compute the Fréchet distance, KID, FD-DINOv2 and CMMD between two folders of images.",
        "samples real --crop sana --size 512",
    )  # fmt: skip
    add = parser.add_argument
    add("samples", type=place, help="Folder of generated images.")
    add("reference", type=place, help="Folder of real images.")
    add(
        "--dinov2", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a DINOv2 model; adds FD-DINOv2 (default: left out).",
    )  # fmt: skip
    add(
        "--clip", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a CLIP model; adds CMMD (default: left out).",
    )  # fmt: skip
    add(
        "--crop", choices=["adm", "var", "sana", "switti"],
        help="Program whose rule crops the images of both folders to squares (default: no cropping).",
    )  # fmt: skip
    add("--size", type=whole(1, 10**5), metavar="PIXELS", help="Side of the squares, needed with --crop.")
    add("--skip-broken", action="store_true", help="Leave out unreadable images and list them in the result.")
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Compare two folders."""
    if (options.crop is None) != (options.size is None):
        raise UsageError("--crop and --size are given together, as in --crop sana --size 512")
    require("scipy", "efficientnet_lite_pytorch", extra="eval")
    from openhart.evaluation.benchmarks.distances import evaluate_distances
    from openhart.evaluation.image_folders import find_images
    from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor
    from openhart.evaluation.networks.squares import ClipExtractor, DinoExtractor

    for folder in (options.samples, options.reference):
        find_images(folder)
    device = find_device()
    packaged = EfficientNetExtractor(device)
    extractors: dict[str, Extractor] = {"FD": packaged, "KID": packaged}
    if options.dinov2 is not None:
        extractors["FD-DINOv2"] = DinoExtractor(options.dinov2, device)
    if options.clip is not None:
        extractors["CMMD"] = ClipExtractor(options.clip, device)
    crop = None if options.crop is None else (options.crop, options.size)
    result = evaluate_distances(
        options.samples, options.reference, extractors, crop, options.skip_broken, options.quiet
    )
    return report_of(result, options)
