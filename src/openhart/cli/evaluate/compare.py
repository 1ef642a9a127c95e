"""``openhart evaluate compare``: figures of several results, if they may be compared."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from openhart.cli.evaluate.common import Report, add_json_output, add_kind
from openhart.cli.options import place
from openhart.errors import UserError

if TYPE_CHECKING:
    from openhart.evaluation.result import Figure, Result


def add_compare(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "compare", compare,
        "Print the figures of several results side by side; results of different rules are refused.",
        "first.json second.json",
    )  # fmt: skip
    parser.add_argument(
        "results", type=place, nargs="+", metavar="JSON", help="Results of openhart evaluate."
    )
    add_json_output(parser)


def compare(options: Namespace) -> Report:
    """The values of each figure by file."""
    from openhart.evaluation.result import check_comparable, read_result

    results = {str(path): read_result(path) for path in options.results}
    first = next(iter(results.values()))
    table: Report = {}
    for number, figure in enumerate(first.figures):
        others = [_same_place(result, number, path) for path, result in results.items()]
        check_comparable(others)
        key = f"{figure.label} ({figure.extractor})" if figure.extractor else figure.label
        table[key] = {path: other.value for path, other in zip(results, others, strict=True)}
    return table


def _same_place(result: "Result", number: int, path: str) -> "Figure":
    if number >= len(result.figures):
        raise UserError(f"{path} has only {len(result.figures)} figures: compare results of one benchmark")
    return result.figures[number]
