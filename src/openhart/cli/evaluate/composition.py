"""``openhart evaluate composition``: GenEval's six tasks on known things, checked offline."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.device import find_device
from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import LARGEST_SEED, MANY, add_model, place, whole


def add_composition(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "composition", measure, help="GenEval's six tasks on known things, checked offline",
        example="scenes/prompts/plain.jsonl --samples out",
    )  # fmt: skip
    add = parser.add_argument
    add("prompts", type=place, help="a .jsonl in GenEval's layout")
    add("--checker", type=place, default=Path("checker"), metavar="DIR")
    add("--samples", type=place, required=True, metavar="DIR", help="where pictures go")
    add("--images-per-prompt", type=whole(1, MANY), default=4, metavar="N")
    add("--seed", type=whole(0, LARGEST_SEED - MANY), default=42)
    add_model(parser)
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Generate the pictures that are missing and check all of them."""
    check_writable(options.samples)
    from openhart.evaluation.benchmarks.composition import score_composition
    from openhart.evaluation.checker.files import load_checker
    from openhart.evaluation.samples.layouts import plan_geneval
    from openhart.evaluation.samples.make import make_samples
    from openhart.pipelines.hart import HartPipeline

    plan = plan_geneval(options.prompts, options.seed, options.images_per_prompt, "composition")
    checker = load_checker(options.checker)
    pipeline = HartPipeline.from_pretrained(options.model).to(find_device())
    make_samples(pipeline, options.model or "packaged", plan, options.samples, quiet=options.quiet)
    result, _ = score_composition(options.samples, checker, options.quiet)
    return report_of(result, options)
