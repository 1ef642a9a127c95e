"""``openhart evaluate dpg``: score a folder of grids by DPG-Bench."""

import json
from argparse import Namespace
from typing import Any

from openhart.atomic import written_whole
from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import MANY, named, place, whole


def add_dpg(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "dpg", measure,
        "Score a folder of image grids by DPG-Bench, by the published rules and by corrected ones.",
        "dpg-samples --table dpg_bench.csv --vqa Salesforce/blip-vqa-base",
    )  # fmt: skip
    add = parser.add_argument
    add("folder", type=place, help="Folder of grids of four images, named ITEM.png or ITEM.jpg.")
    add("--table", type=place, required=True, metavar="CSV", help="The published dpg_bench.csv.")
    add(
        "--vqa", type=named, required=True, metavar="PATH",
        help="Folder or Hugging Face id of a BLIP or ViLT model, which answers the questions.",
    )  # fmt: skip
    add(
        "--question-tokens", type=whole(1, MANY), default=25, metavar="N",
        help="Tokens that a question is cut to (default: 25, as published).",
    )  # fmt: skip
    add(
        "--resolution", type=whole(1, MANY), metavar="PIXELS",
        help="Side of one image of a grid (default: that of the first grid).",
    )  # fmt: skip
    add(
        "--pictures", type=int, choices=[1, 2, 3, 4], default=4,
        help="Number of images per grid (default: 4).",
    )  # fmt: skip
    add("--rows", type=place, metavar="JSONL", help="Also write a line per image with its answers.")
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Ask every question about every image."""
    from openhart.evaluation.benchmarks.dpg import evaluate_dpg, find_grids, resolution_of
    from openhart.evaluation.dpg.questions import read_table
    from openhart.evaluation.networks.answers import TransformersAnswers

    paths, rows = find_grids(options.folder), read_table(options.table)
    resolution = options.resolution or resolution_of(paths, options.pictures)
    model = TransformersAnswers(options.vqa, find_device(), options.question_tokens)
    result, lines = evaluate_dpg(paths, rows, model, resolution, options.pictures, options.quiet)
    if options.rows is not None:
        with written_whole(options.rows) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return report_of(result, options)
