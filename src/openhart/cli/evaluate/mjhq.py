"""``openhart evaluate mjhq``: FID and CLIP score on MJHQ-30K."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import MANY, UsageError, named, place, whole
from openhart.errors import UserError, require

if TYPE_CHECKING:
    from openhart.evaluation.networks.extractors import Extractor

RESIZES = ("clean", "legacy-pytorch", "legacy-tensorflow")


def add_mjhq(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "mjhq", measure,
        "Compute the FID, of all images and per category, and the CLIP score on MJHQ-30K.",
        "mjhq-samples --reference mjhq30k_imgs --resize legacy-pytorch --crop sana --size 1024",
    )  # fmt: skip
    add = parser.add_argument
    add("folder", type=place, help="Folder of generated images, ID.jpg.")
    add(
        "--reference", type=place, required=True, metavar="DIR",
        help="Folder of the published images, CATEGORY/ID.jpg.",
    )  # fmt: skip
    add(
        "--metadata", type=place, metavar="JSON",
        help="The published meta_data.json (default: that in the folder of --reference).",
    )  # fmt: skip
    add("--count", type=whole(2, MANY), metavar="N", help="Use only the first N prompts (default: all).")
    add(
        "--category", action="append", dest="categories", metavar="NAME",
        help="Use only this category; may be given several times (default: all categories).",
    )  # fmt: skip
    add(
        "--skip-broken", action="store_true",
        help="Leave out pairs with an unreadable image and list them in the result.",
    )  # fmt: skip
    _add_networks(parser)
    add_json_output(parser)


def _add_networks(parser: ArgumentParser) -> None:
    """How images are prepared, and the networks that compare them."""
    add = parser.add_argument
    add(
        "--crop", choices=["adm", "var", "sana", "switti"],
        help="Program whose rule crops the images of both folders to squares (default: no cropping).",
    )  # fmt: skip
    add("--size", type=whole(1, 10**5), metavar="PIXELS", help="Side of the squares, needed with --crop.")
    add("--resize", choices=RESIZES, help="Rule that resizes images for Inception (default: clean).")
    add(
        "--extractor", choices=["inception", "efficientnet"], default="inception",
        help="Network of the features; figures with efficientnet need no download but are no FID (default: "
        "inception).",
    )  # fmt: skip
    add(
        "--weights", type=place, metavar="PTH",
        help="Weights of Inception, torch-fidelity's weights-inception-2015-12-05-6726825d.pth (default: "
        "downloaded).",
    )  # fmt: skip
    add(
        "--dinov2", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a DINOv2 model, which replaces Inception (default: Inception).",
    )  # fmt: skip
    add(
        "--clip", type=named, metavar="PATH",
        help="Folder or Hugging Face id of a CLIP model; adds the CLIP score (default: left out).",
    )  # fmt: skip


def measure(options: Namespace) -> Report:
    """Compare the images with the published ones, and with their prompts."""
    if (options.crop is None) != (options.size is None):
        raise UsageError("--crop and --size are given together, as in --crop sana --size 1024")
    inception = options.extractor == "inception" and options.dinov2 is None
    if not inception and (options.resize or options.weights):
        raise UsageError("--resize and --weights belong to Inception: leave them out with another network")
    from openhart.evaluation.benchmarks.mjhq import FRECHET_OF_RESIZE, evaluate_mjhq, find_pairs
    from openhart.evaluation.metrics.resizing import CROPS
    from openhart.evaluation.networks.clip import TransformersClip
    from openhart.evaluation.samples.layouts import read_mjhq

    entries = _chosen(read_mjhq(options.metadata or options.reference / "meta_data.json"), options)
    pairs = find_pairs(options.folder, options.reference, entries)
    resize, crop = options.resize or RESIZES[0], None
    if options.crop is not None:
        crop = f"{options.crop} to {options.size}", lambda image: CROPS[options.crop](image, options.size)
    device = find_device()
    extractor = _extractor(options, resize, device)
    clip = options.clip and TransformersClip(options.clip, device)
    frechet = FRECHET_OF_RESIZE[resize]
    result = evaluate_mjhq(pairs, extractor, frechet, clip, crop, options.skip_broken, options.quiet)
    return report_of(result, options)


def _chosen(entries: dict[str, dict[str, str]], options: Namespace) -> dict[str, dict[str, str]]:
    known = {entry["category"] for entry in entries.values()}
    for category in options.categories or ():
        if category not in known:
            raise UserError(f"there is no category {category}: choose among {', '.join(sorted(known))}")
    kept = {
        item: entry
        for item, entry in entries.items()
        if options.categories is None or entry["category"] in options.categories
    }
    return dict(list(kept.items())[: options.count])


def _extractor(options: Namespace, resize: str, device: Any) -> "Extractor":
    from openhart.evaluation.networks.extractors import EfficientNetExtractor
    from openhart.evaluation.networks.inception import InceptionExtractor
    from openhart.evaluation.networks.squares import DinoExtractor

    if options.dinov2 is not None:
        return DinoExtractor(options.dinov2, device)
    if options.extractor == "efficientnet":
        require("efficientnet_lite_pytorch", extra="eval")
        return EfficientNetExtractor(device)
    return InceptionExtractor(options.weights, device, resize)
