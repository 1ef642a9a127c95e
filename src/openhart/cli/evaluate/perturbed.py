"""``openhart evaluate perturbed``: reconstruction from codes of which some are exchanged."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import (
    Report,
    add_data,
    add_json_output,
    add_kind,
    open_tokenizer_and_data,
    report_of,
)
from openhart.cli.options import LARGEST_SEED, MANY, number, whole


def add_perturbed(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "perturbed", measure, help="reconstruction from codes of which some are exchanged"
    )
    add_data(parser)
    parser.add_argument("--shares", type=number, nargs="+", metavar="SHARE", help="shares of exchanged codes")
    parser.add_argument(
        "--nearest",
        type=whole(1, MANY),
        default=100,
        metavar="N",
        help="exchange for one of the N nearest codes",
    )
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED - MANY), default=0)
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Reconstruct every image once per share of exchanged codes."""
    tokenizer, dataset = open_tokenizer_and_data(options)
    from openhart.evaluation.benchmarks.perturbed import SHARES, evaluate_perturbed

    shares = options.shares or SHARES
    result = evaluate_perturbed(
        tokenizer, dataset, shares, options.nearest, options.seed, quiet=options.quiet
    )
    return report_of(result, options)
