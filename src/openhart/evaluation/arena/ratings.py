"""Ratings from pairwise votes: the Bradley–Terry model on the scale of Elo.

Bradley and Terry (1952): P(i is preferred to j) = 1 / (1 + exp(θ_j − θ_i)). A tie counts as half a vote for
each side. Each pair of models gets one further tie, so that the maximum exists when a model wins all votes.
Ratings are 1000 + 400/ln 10 · (θ − mean θ): 400 points are odds of ten to one, as in Elo (1978).

``choix`` fits the same model but knows no ties.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from openhart.errors import UserError
from openhart.evaluation.arena.votes import Vote
from openhart.evaluation.metrics.intervals import share_interval
from openhart.evaluation.result import Figure

RESAMPLES = 1000
POINTS = 400 / np.log(10)
RULES: dict[str, str | int | float | bool] = {
    "model": "Bradley-Terry",
    "ties": "half a vote for each side",
    "prior": "one tie per pair of models",
    "mean": 1000,
    "bootstrap": f"{RESAMPLES} resamples of images",
}


@dataclass(frozen=True)
class Duel:
    """Two models against each other.

    Attributes:
        first: a model.
        second: the other model.
        share: share of votes for the first, ties counted half.
        interval: 95 % interval of the share (Wilson), ties rounded to even numbers of votes.
        votes: number of votes.
    """

    first: str
    second: str
    share: float
    interval: tuple[float, float]
    votes: int


def win_table(votes: Sequence[Vote], models: Sequence[str]) -> NDArray[np.float64]:
    """Wins (M, M): entry (i, j) counts votes for model i against model j, ties half."""
    place = {model: number for number, model in enumerate(models)}
    wins = np.zeros((len(models), len(models)))
    for vote in votes:
        left, right = place[vote.left], place[vote.right]
        share = {"left": 1.0, "right": 0.0, "tie": 0.5}[vote.choice]
        wins[left, right] += share
        wins[right, left] += 1 - share
    return wins


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratings (M,) of maximum likelihood, mean 1000, from a table of wins (M, M)."""
    count = len(wins)
    counts = wins + 0.5 * (1 - np.eye(count))

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        gaps = theta[:, None] - theta[None, :]
        probability = 1 / (1 + np.exp(-gaps))
        surprise = counts * (1 - probability)
        gradient = surprise.sum(axis=0) - surprise.sum(axis=1)
        return float((counts * np.logaddexp(0, -gaps)).sum()), gradient

    found = minimize(
        loss, np.zeros(count), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
    )
    theta = found.x - found.x.mean()
    return np.asarray(1000 + POINTS * theta)


def rate(votes: Sequence[Vote], models: Sequence[str], seed: int = 0) -> list[Figure]:
    """The rating of each model with a 95 % percentile bootstrap interval, best first.

    Images are resampled, not votes, because the votes on one image are not independent.

    Args:
        votes: all votes.
        models: names.
        seed: of the resampling.

    Raises:
        UserError: there are no votes.
    """
    if not votes:
        raise UserError("there are no votes yet: open the arena's page and vote first")
    images = sorted({vote.image for vote in votes})
    tables = np.stack([win_table([v for v in votes if v.image == image], models) for image in images])
    random = np.random.default_rng(seed)
    drawn = np.stack(
        [
            bradley_terry(tables[random.integers(len(images), size=len(images))].sum(axis=0))
            for _ in range(RESAMPLES)
        ]
    )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    ratings = bradley_terry(tables.sum(axis=0))
    return [
        Figure(
            name=f"Elo of {models[i]}",
            value=float(ratings[i]),
            count=len(votes),
            interval=(float(low[i]), float(high[i])),
            rules=RULES,
        )
        for i in np.argsort(-ratings)
    ]


def duels(votes: Sequence[Vote], models: Sequence[str]) -> list[Duel]:
    """Every pair of models that met, with the share of votes for the first."""
    wins = win_table(votes, models)
    met = []
    for i, j in itertools.combinations(range(len(models)), 2):
        total = round(wins[i, j] + wins[j, i])
        if total:
            share = float(wins[i, j] / total)
            met.append(Duel(models[i], models[j], share, share_interval(round(wins[i, j]), total), total))
    return met
