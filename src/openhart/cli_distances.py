"""``openhart evaluate distances``: two folders of images."""

from argparse import Namespace
from typing import Any

from openhart.cli_checks import UsageError, named, place, whole


def add_distances(kinds: Any) -> None:
    """Add the options of ``openhart evaluate distances``."""
    parser = kinds.add_parser(
        "distances",
        help="Fréchet distance, KID, FD-DINOv2 and CMMD between two folders of images",
        epilog="example: openhart evaluate distances samples real --crop sana --size 512",
    )
    add = parser.add_argument
    add("samples", type=place, help="folder of generated images")
    add("reference", type=place, help="folder of real images")
    add("--dinov2", type=named, metavar="PATH", help="a DINOv2 of transformers, for FD-DINOv2")
    add("--clip", type=named, metavar="PATH", help="a CLIP of transformers, for CMMD")
    add("--crop", choices=["adm", "var", "sana", "switti"], help="rule that crops the images of both folders")
    add("--size", type=whole(1, 10**5), metavar="PIXELS", help="side of the crops")
    add("--skip-broken", action="store_true", help="skip and list unreadable images")


def distances(options: Namespace) -> dict[str, Any]:
    """Compare two folders."""
    if (options.crop is None) != (options.size is None):
        raise UsageError("--crop and --size are given together, as in --crop sana --size 512")
    from openhart.cli_commands import _device, _need_extra
    from openhart.cli_evaluate import _report

    _need_extra("eval", "scipy", "efficientnet_lite_pytorch")
    from openhart.evaluation.benchmarks.distances import evaluate_distances
    from openhart.evaluation.image_folders import find_images
    from openhart.evaluation.networks.extractors import EfficientNetExtractor, Extractor
    from openhart.evaluation.networks.squares import ClipExtractor, DinoExtractor

    for folder in (options.samples, options.reference):
        find_images(folder)
    device = _device(None)
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
    return _report(result, options)
