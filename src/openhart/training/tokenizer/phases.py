"""The phases of a tokenizer run."""

import itertools
from collections.abc import Sequence

from openhart.training.tokenizer.recipe import Phase


def phase_at(phases: Sequence[Phase], number: int) -> tuple[int, int]:
    """Index of the phase of a step, and the step's number within it; both count from 0."""
    ends = list(itertools.accumulate(phase.steps for phase in phases))
    index = next(place for place, end in enumerate(ends) if number < end)
    return index, number - (ends[index] - phases[index].steps)
