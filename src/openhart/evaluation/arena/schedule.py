"""Which pair of images a rater sees next."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from openhart.evaluation.arena.votes import Vote


@dataclass(frozen=True)
class Pair:
    """Two images to compare, and on which side each is shown."""

    image: str
    left: str
    right: str


def next_pair(
    names: Sequence[str], models: Sequence[str], votes: Iterable[Vote], random: Random
) -> Pair | None:
    """A pair that has no vote yet, or None when all have one.

    The pair of models with the fewest votes comes first, then the image with the fewest; sides are random.

    Args:
        names: images.
        models: two or more.
        votes: of this rater.
        random: decides between equals and shuffles the sides.
    """
    done = {(vote.image, frozenset((vote.left, vote.right))) for vote in votes}
    per_pair = Counter(pair for _, pair in done)
    per_image = Counter(image for image, _ in done)
    open_pairs = [
        (image, pair)
        for image in names
        for pair in itertools.combinations(models, 2)
        if (image, frozenset(pair)) not in done
    ]
    if not open_pairs:
        return None
    image, pair = min(open_pairs, key=lambda p: (per_pair[frozenset(p[1])], per_image[p[0]], random.random()))
    left, right = random.sample(pair, 2)
    return Pair(image, left, right)
