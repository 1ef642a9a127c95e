"""``openhart evaluate perturbed``: reconstruction from codes of which some are exchanged."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import (
    Report,
    add_data,
    add_json_output,
    add_kind,
    add_seed,
    open_code_tokenizer_and_data,
    report_of,
)
from openhart.cli.options import MANY, number, whole


def add_perturbed(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "perturbed", measure,
        "Reconstruct images from codes of which a fraction is replaced by similar codes.",
        "data/emoji/test --shares 0.1 0.2",
    )  # fmt: skip
    add_data(parser)
    add = parser.add_argument
    add(
        "--shares", type=number, nargs="+", metavar="SHARE",
        help="Fractions of replaced codes, from 0 to 1 (default: 0 0.05 0.1 0.2 0.4).",
    )  # fmt: skip
    add(
        "--nearest", type=whole(1, MANY), default=100, metavar="N",
        help="A code is replaced by one of the N codes nearest to it (default: 100).",
    )  # fmt: skip
    add_seed(parser, "Seed of the first image; each further image has the next seed")
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Reconstruct every image once per share of exchanged codes."""
    tokenizer, dataset = open_code_tokenizer_and_data(options)
    from openhart.evaluation.benchmarks.perturbed import SHARES, evaluate_perturbed

    shares = options.shares or SHARES
    result = evaluate_perturbed(
        tokenizer, dataset, shares, options.nearest, options.seed, quiet=options.quiet
    )
    return report_of(result, options)
