"""Seeds of runs: they do not change, since stored runs are resumed by them."""

import torch

from openhart.randomness import mixed_generator, sample_generators, stack_random, step_generator


def test_the_seeds_of_stored_runs_do_not_change():
    assert mixed_generator(3, 7).initial_seed() == 3_000_016
    assert mixed_generator(3, 7, 8).initial_seed() == 3_000_025_000_056
    assert step_generator(5, 9).initial_seed() == 20_495_098_376
    assert [each.initial_seed() for each in sample_generators(5, 9, 2)] == [
        6_597_069_766_665,
        6_597_069_766_666,
    ]


def test_a_sample_draws_the_same_however_batches_are_split():
    whole = stack_random(torch.rand, (4,), sample_generators(1, 0, 6))
    parts = [stack_random(torch.rand, (4,), sample_generators(1, first, 2)) for first in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)
    assert len(set(whole[:, 0].tolist())) == 6
