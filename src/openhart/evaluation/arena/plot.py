"""A plot of ratings with their intervals."""

from collections.abc import Sequence
from pathlib import Path

from openhart.atomic import written_whole
from openhart.evaluation.result import Figure


def plot_ratings(figures: Sequence[Figure], path: Path) -> None:
    """Draw one line per model, best at the top: the rating as a point, its 95 % interval as a bar.

    Args:
        figures: from :func:`openhart.evaluation.arena.ratings.rate`.
        path: of the picture; its suffix chooses the file type.
    """
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(7, 1 + 0.5 * len(figures)), layout="constrained")
    axes = plot.add_subplot()
    for row, figure in enumerate(reversed(figures)):
        low, high = figure.interval or (figure.value, figure.value)
        axes.plot([low, high], [row, row], color="tab:blue", linewidth=2)
        axes.plot(figure.value, row, "o", color="tab:blue")
    names = [figure.name.removeprefix("Elo of ") for figure in reversed(figures)]
    axes.set_yticks(range(len(figures)), names)
    axes.set_ylim(-0.6, len(figures) - 0.4)
    axes.set_xlabel(f"Bradley–Terry rating on the Elo scale, 95 % interval, {figures[0].count} votes")
    axes.grid(axis="x", alpha=0.3)
    with written_whole(path) as temporary:
        plot.savefig(temporary, dpi=150)
