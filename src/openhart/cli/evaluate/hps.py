"""``openhart evaluate hps``: score a folder of images by HPSv2."""

from argparse import Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import named, place


def add_hps(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "hps", measure, "Score a folder of images by HPSv2, which predicts the preferences of people.",
        "hps-samples --prompts benchmark --weights hpsv2.1-clip",
    )  # fmt: skip
    add = parser.add_argument
    add("folder", type=place, help="Folder of images, STYLE/00000.jpg.")
    add("--prompts", type=place, required=True, metavar="DIR", help="The published folder benchmark.")
    add(
        "--weights", type=named, required=True, metavar="PATH",
        help="Folder or Hugging Face id of a CLIP model with HPSv2's weights.",
    )  # fmt: skip
    add(
        "--hps-version", choices=["2.0", "2.1"], default="2.1",
        help="Version of the weights (default: 2.1).",
    )  # fmt: skip
    add(
        "--style", action="append", dest="styles", metavar="STYLE",
        help="Score only this style; may be given several times (default: all styles).",
    )  # fmt: skip
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Compare every image with its prompt."""
    from openhart.errors import UserError
    from openhart.evaluation.benchmarks.hps import evaluate_hps, find_styles
    from openhart.evaluation.networks.clip import TransformersClip
    from openhart.evaluation.samples.layouts import read_hps

    prompts = read_hps(options.prompts)
    chosen = options.styles or list(prompts)
    if unknown := [style for style in chosen if style not in prompts]:
        raise UserError(f"there is no style {unknown[0]}: choose among {', '.join(prompts)}")
    styles = {style: prompts[style] for style in chosen}
    paths = find_styles(options.folder, styles)
    model = TransformersClip(options.weights, find_device())
    return report_of(evaluate_hps(paths, styles, model, options.hps_version, options.quiet), options)
