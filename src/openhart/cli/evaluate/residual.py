"""``openhart evaluate residual``: generation with the residual and without it."""

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


def add_residual(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "residual", measure,
        "Compare images that are generated with and without the residual from the same seeds.",
        "data/emoji/test",
    )  # fmt: skip
    add_data(parser)
    add_prompts(parser)
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Generate each prompt twice, from the same seed."""
    pipeline, dataset = open_pipeline_and_data(options)
    from openhart.evaluation.benchmarks.residual import evaluate_residual

    result = evaluate_residual(pipeline, dataset, count=options.count, seed=options.seed, quiet=options.quiet)
    return report_of(result, options)
