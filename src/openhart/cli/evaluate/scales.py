"""``openhart evaluate scales``: reconstruction from the codes of the first scales only."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import (
    Report,
    add_data,
    add_json_output,
    add_kind,
    open_code_tokenizer_and_data,
    report_of,
)
from openhart.cli.options import place
from openhart.errors import require


def add_scales(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "scales", measure,
        "Reconstruct images from the codes of the first scale, the first two scales and so on.",
        "data/emoji/test --plot scales.png",
    )  # fmt: skip
    add_data(parser)
    parser.add_argument(
        "--plot", type=place, metavar="PNG", help="Plot the quality against the number of scales."
    )
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Reconstruct every image once per number of scales."""
    require("matplotlib", extra="eval")
    tokenizer, dataset = open_code_tokenizer_and_data(options)
    from openhart.evaluation.benchmarks.scales import evaluate_scales, plot_scales

    result = evaluate_scales(tokenizer, dataset, quiet=options.quiet)
    if options.plot is not None:
        plot_scales(result, options.plot)
    return report_of(result, options)
