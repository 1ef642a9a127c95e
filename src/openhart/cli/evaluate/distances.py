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
        help="Fréchet distance, KID, FD-DINOv2 and CMMD between two folders of images",
        example="samples real --crop sana --size 512",
    )  # fmt: skip
    add = parser.add_argument
    add("samples", type=place, help="folder of generated images")
    add("reference", type=place, help="folder of real images")
    add("--dinov2", type=named, metavar="PATH", help="a DINOv2 of transformers, for FD-DINOv2")
    add("--clip", type=named, metavar="PATH", help="a CLIP of transformers, for CMMD")
    add("--crop", choices=["adm", "var", "sana", "switti"], help="rule that crops the images of both folders")
    add("--size", type=whole(1, 10**5), metavar="PIXELS", help="side of the crops")
    add("--skip-broken", action="store_true", help="skip and list unreadable images")
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
