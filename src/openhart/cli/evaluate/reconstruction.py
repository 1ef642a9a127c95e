"""``openhart evaluate reconstruction``: what the image tokenizer keeps of images."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import Report, add_data, add_json_output, add_kind, open_tokenizer_and_data


def add_reconstruction(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(kinds, "reconstruction", measure, help="what the image tokenizer keeps")
    add_data(parser)
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Reconstruct every image, from the codes only and with the residual."""
    tokenizer, dataset = open_tokenizer_and_data(options)
    from openhart.evaluation.benchmarks.reconstruction import evaluate_reconstruction

    return evaluate_reconstruction(tokenizer, dataset, quiet=options.quiet)
