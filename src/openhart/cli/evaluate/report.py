"""``openhart evaluate report``: the page of published figures and stored results."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import add_kind
from openhart.cli.options import UsageError, place
from openhart.errors import require


def add_report(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "report", report,
        "Write a page of published figures, figures that others measured, and stored results.",
        "results/ benchmarks/results -o docs/results.md",
    )  # fmt: skip
    parser.add_argument(
        "results", type=place, nargs="*", metavar="PATH", help="JSON files of results, or folders of them."
    )
    parser.add_argument(
        "-o", "--output", type=place, required=True, metavar="MARKDOWN", help="File to write (.md)."
    )


def report(options: Namespace) -> None:
    """Write the page of results."""
    if options.output.suffix != ".md":
        raise UsageError(f"the page is Markdown: name a file that ends in .md, got {options.output}")
    require("matplotlib", extra="eval")
    from openhart.evaluation.report.page import read_stored, write_report

    write_report(read_stored(options.results), options.output)
    if not options.quiet:
        print(options.output)
