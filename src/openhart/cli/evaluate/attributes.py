"""``openhart evaluate attributes``: style and background colour of generated images."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import (
    Report,
    add_data,
    add_json_output,
    add_kind,
    add_prompts,
    open_pipeline_and_data,
    report_of,
)


def add_attributes(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "attributes", measure,
        "Check whether generated images have the style and the background colour that their prompts name.",
        "data/emoji/test",
    )  # fmt: skip
    add_data(parser)
    add_prompts(parser)
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Generate an image per prompt and classify its style and background."""
    pipeline, dataset = open_pipeline_and_data(options)
    from openhart.evaluation.benchmarks.attributes import evaluate_attributes

    result = evaluate_attributes(
        pipeline, dataset, count=options.count, seed=options.seed, quiet=options.quiet
    )
    return report_of(result, options)
