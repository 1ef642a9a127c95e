"""``openhart evaluate arena``, ``ratings`` and ``report``: votes by people, and the page of results."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from openhart.cli_checks import LARGEST_SEED, UsageError, named, place, whole

PORTS = 65535


def add_arena(kinds: Any) -> None:
    """Add the options of the three commands."""
    arena = kinds.add_parser(
        "arena",
        help="open a page on which people compare images of several models without seeing the models' names",
        epilog="example: openhart evaluate arena hart/ sdxl/ -o votes.sqlite",
    )
    add = arena.add_argument
    add(
        "folders", type=place, nargs="+", metavar="FOLDER", help="one folder per model, with equal file names"
    )
    add(
        "-o",
        "--output",
        type=place,
        required=True,
        metavar="SQLITE",
        help="file of votes; an existing one is continued",
    )
    add("--host", type=named, default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=whole(0, PORTS), default=8080, help="port to listen on; 0 chooses a free one")
    add("--seed", type=whole(0, LARGEST_SEED), help="seed of the order and the sides (default: random)")
    ratings = kinds.add_parser(
        "ratings",
        help="Bradley-Terry ratings from the votes of an arena, on the scale of Elo",
        epilog="example: openhart evaluate ratings votes.sqlite --plot ratings.png",
    )
    ratings.add_argument("votes", type=place, metavar="SQLITE", help="file of votes")
    ratings.add_argument("--plot", type=place, metavar="PNG", help="draw the ratings and their intervals")
    report = kinds.add_parser(
        "report",
        help="write a page of published figures, others' measurements and stored results",
        epilog="example: openhart evaluate report results/ benchmarks/results -o docs/results.md",
    )
    report.add_argument(
        "results", type=place, nargs="*", metavar="PATH", help="JSON files, or folders of them"
    )
    report.add_argument("-o", "--output", type=place, required=True, metavar="MARKDOWN")


def arena(options: Namespace) -> None:
    """Serve the page until it is interrupted."""
    from openhart.cli_commands import _need_extra

    _need_extra("eval", "starlette", "uvicorn")
    from openhart.evaluation.arena.app import Arena, arena_app
    from openhart.evaluation.arena.entries import find_entries
    from openhart.evaluation.arena.serve import serve
    from openhart.evaluation.arena.votes import VoteFile

    entries = find_entries(options.folders)
    votes = VoteFile.open(options.output, entries.folders, entries.digests)
    serve(arena_app(Arena(entries, votes, options.seed)), options.host, options.port, options.quiet)


def ratings(options: Namespace) -> dict[str, Any]:
    """Rate the models of a file of votes."""
    from openhart.cli_commands import _need_extra

    _need_extra("eval", "scipy", "matplotlib")
    from openhart.cli_evaluate import _report
    from openhart.evaluation.arena.plot import plot_ratings
    from openhart.evaluation.arena.ratings import duels, rate
    from openhart.evaluation.arena.votes import VoteFile
    from openhart.evaluation.result import Result

    file = VoteFile(options.votes)
    votes, models = file.all(), list(file.digests())
    figures = rate(votes, models)
    if options.plot is not None:
        plot_ratings(figures, options.plot)
    details = {
        "duels": [asdict(duel) for duel in duels(votes, models)],
        "raters": len({vote.rater for vote in votes}),
    }
    return _report(Result("arena", tuple(figures), {"images": file.digests()}, details), options)


def report(options: Namespace) -> None:
    """Write the page of results."""
    from openhart.cli_commands import _need_extra

    if options.output.suffix != ".md":
        raise UsageError(f"the page is Markdown: name a file that ends in .md, got {options.output}")
    _need_extra("eval", "matplotlib")
    from openhart.evaluation.report.page import read_stored, write_report

    write_report(read_stored(options.results), options.output)
    if not options.quiet:
        print(options.output)
