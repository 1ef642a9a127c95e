import itertools
import math
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openhart.errors import UserError
from openhart.evaluation.arena.ratings import bradley_terry, duels, rate, win_table
from openhart.evaluation.arena.schedule import next_pair
from openhart.evaluation.arena.votes import Vote

SIDES = ("left", "right", "tie")


def vote(image, left, right, choice):
    return Vote("r", str(image), left, right, choice, 1.0)


@given(wins=st.integers(0, 50), losses=st.integers(0, 50))
def test_two_models_differ_by_the_logarithm_of_their_odds(wins, losses):
    first, second = bradley_terry(np.array([[0.0, wins], [losses, 0.0]]))
    assert first - second == pytest.approx(400 * math.log10((wins + 0.5) / (losses + 0.5)), abs=1e-3)
    assert first + second == pytest.approx(2000)


def test_ratings_recover_the_strengths_that_made_the_votes():
    truth = np.array([1150.0, 1000.0, 850.0])
    shares = 1 / (1 + 10 ** (-(truth[:, None] - truth[None, :]) / 400))
    np.fill_diagonal(shares, 0)
    assert bradley_terry(1e6 * shares) == pytest.approx(truth, abs=0.1)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.permutations("abc"), st.sampled_from(SIDES)), min_size=1))
def test_the_side_on_which_a_model_is_shown_does_not_matter(drawn):
    votes = [vote(image, order[0], order[1], choice) for image, order, choice in drawn]
    mirror = {"left": "right", "right": "left", "tie": "tie"}
    turned = [vote(v.image, v.right, v.left, mirror[v.choice]) for v in votes]
    ratings, same = (bradley_terry(win_table(v, "abc")) for v in (votes, turned))
    assert ratings == pytest.approx(same, abs=1e-3)


def test_the_preferred_model_comes_first_and_its_interval_holds_its_rating():
    votes = [vote(i, "good", "bad", "left" if i % 5 else "right") for i in range(100)]
    best, worst = rate(votes, ["bad", "good"])
    assert (best.name, worst.name) == ("Elo of good", "Elo of bad")
    assert best.interval[0] < best.value < best.interval[1]
    assert worst.interval[1] < best.interval[0]
    assert best.count == 100


@pytest.mark.slow
def test_more_votes_give_a_narrower_interval():
    widths = []
    for count in (20, 500):
        votes = [vote(i, "a", "b", "left" if i % 3 else "right") for i in range(count)]
        low, high = rate(votes, "ab")[0].interval
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_a_duel_counts_a_tie_half():
    votes = [vote(0, "a", "b", "left"), vote(1, "b", "a", "tie")]
    (duel,) = duels(votes, "ab")
    assert (duel.first, duel.share, duel.votes) == ("a", 0.75, 2)


def test_without_votes_there_is_no_rating():
    with pytest.raises(UserError, match="no votes yet"):
        rate([], "ab")


def test_every_pair_is_shown_once_on_both_sides_about_equally():
    names, models, random = [str(i) for i in range(60)], "abc", Random(0)
    votes = []
    while (pair := next_pair(names, models, votes, random)) is not None:
        votes.append(vote(pair.image, pair.left, pair.right, "tie"))
    met = Counter((v.image, frozenset((v.left, v.right))) for v in votes)
    pairs = [frozenset(pair) for pair in itertools.combinations(models, 2)]
    assert met == Counter(itertools.product(names, pairs))
    left = Counter(v.left for v in votes)
    assert all(40 < left[model] < 80 for model in models)


def test_pairs_of_models_take_turns():
    votes, random = [], Random(0)
    for _ in range(30):
        pair = next_pair([str(i) for i in range(60)], "abc", votes, random)
        votes.append(vote(pair.image, pair.left, pair.right, "left"))
    per_pair = Counter(frozenset((v.left, v.right)) for v in votes)
    assert set(per_pair.values()) == {10}
