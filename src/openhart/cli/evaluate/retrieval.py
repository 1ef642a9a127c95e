"""``openhart evaluate retrieval``: do generated images show what their prompts name."""

from argparse import Namespace
from typing import Any

from openhart.atomic import written_whole
from openhart.cli.evaluate.common import (
    Report,
    add_data,
    add_json_output,
    add_kind,
    add_prompts,
    open_pipeline_and_data,
    report_of,
)
from openhart.cli.options import place


def add_retrieval(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "retrieval", measure,
        "Check whether generated images show what their prompts name: how often is the real image of the "
        "prompt the most similar one? The same figures of reconstructions are an upper bound.",
        "data/emoji/test --count 256",
    )  # fmt: skip
    add_data(parser)
    add_prompts(parser)
    parser.add_argument(
        "--sheet", type=place, metavar="PNG", help="Save pairs of real and generated images as one image."
    )
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Generate an image per prompt and look for its real image among all."""
    pipeline, dataset = open_pipeline_and_data(options)
    from openhart.evaluation.benchmarks.retrieval import evaluate_retrieval

    settings = {"count": options.count, "seed": options.seed, "quiet": options.quiet}
    if options.sheet is None:
        return report_of(evaluate_retrieval(pipeline, dataset, **settings), options)
    with written_whole(options.sheet) as temporary:
        result = evaluate_retrieval(pipeline, dataset, save_to=temporary, **settings)
    return report_of(result, options)
