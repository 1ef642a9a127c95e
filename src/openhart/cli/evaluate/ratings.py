"""``openhart evaluate ratings``: Bradley-Terry ratings from the votes of an arena."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from openhart.cli.evaluate.common import Report, add_json_output, add_kind, report_of
from openhart.cli.options import place
from openhart.errors import require


def add_ratings(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "ratings", measure,
        "Compute Bradley-Terry ratings on the scale of Elo from the votes of an arena.",
        "votes.sqlite --plot ratings.png",
    )  # fmt: skip
    parser.add_argument(
        "votes", type=place, metavar="SQLITE", help="File of votes of openhart evaluate arena."
    )
    parser.add_argument(
        "--plot", type=place, metavar="PNG", help="Plot the ratings and their 95 %% intervals."
    )
    add_json_output(parser)


def measure(options: Namespace) -> Report:
    """Rate the models of a file of votes."""
    require("scipy", "matplotlib", extra="eval")
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
    return report_of(Result("arena", tuple(figures), {"images": file.digests()}, details), options)
