"""``openhart evaluate composition``: GenEval's six tasks on known objects, checked offline."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, add_seed, report_of
from openhart.cli.options import MANY, add_model, place, whole


def add_composition(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "composition", measure,
        "Generate images for prompts of GenEval's six tasks with drawn objects, and check them with the "
        "detector that openhart evaluate checker has trained.",
        "data/scenes/prompts/plain.jsonl --samples out",
    )  # fmt: skip
    add = parser.add_argument
    add("prompts", type=place, help="File of prompts (.jsonl) in GenEval's format.")
    add(
        "--checker", type=place, default=Path("checker"), metavar="DIR",
        help="Folder of the detector (default: checker).",
    )  # fmt: skip
    add(
        "--samples", type=place, required=True, metavar="DIR",
        help="Folder of the generated images; images that it has already are kept.",
    )  # fmt: skip
    add(
        "--images-per-prompt", type=whole(1, MANY), default=4, metavar="N",
        help="Number of images per prompt (default: 4).",
    )  # fmt: skip
    add_seed(parser, "Seed of the first image per prompt", default=42)
    add_model(parser)
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Generate the images that are missing and check all of them."""
    check_writable(options.samples)
    from openhart.evaluation.any_pipeline import check_prompts
    from openhart.evaluation.benchmarks.composition import score_composition
    from openhart.evaluation.checker.files import load_checker
    from openhart.evaluation.samples.layouts import plan_geneval
    from openhart.evaluation.samples.make import make_samples
    from openhart.pipelines.auto import from_pretrained

    plan = plan_geneval(options.prompts, options.seed, options.images_per_prompt, "composition")
    checker = load_checker(options.checker)
    pipeline: Any = from_pretrained(options.model).to(find_device())
    check_prompts(pipeline, options.kind)
    make_samples(pipeline, options.model or "packaged", plan, options.samples, quiet=options.quiet)
    result, _ = score_composition(options.samples, checker, options.quiet)
    return report_of(result, options)
