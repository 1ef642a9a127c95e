"""The recipe of a VQGAN tokenizer with the Gumbel-softmax quantizer (arXiv 1611.01144)."""

import math
from typing import Any, ClassVar

from pydantic import Field

from openhart.checks import Count, Positive, Weight
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.training.run.settings import Section
from openhart.training.tokenizer.recipe import Phase, TokenizerLosses, TokenizerRecipe


class Temperature(Section):
    """The temperature τ of the softmax: from ``start`` to ``end`` along half a cosine over ``steps`` steps.

    The defaults are those of the released tokenizer, over 1,000,001 steps there; null means all steps of the
    run.
    """

    start: Positive = 0.9
    end: Positive = 1e-6
    steps: Count | None = None

    def at(self, number: int, total: int) -> float:
        """τ at a step, counted from 0, of a run of ``total`` steps."""
        done = min(1.0, number / (self.steps or total))
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


class GumbelLosses(TokenizerLosses):
    """Weights of the losses.

    ``kl_weight`` weighs the Kullback-Leibler divergence of the codes' probabilities from the uniform
    distribution, in nats per position; the default is that of the released tokenizer.
    """

    kl_weight: Weight = 1e-8


class GumbelRecipe(TokenizerRecipe):
    """A VQGAN tokenizer whose codes are drawn by linear scores in training."""

    kind = "gumbel"
    tokenizer = VqganTokenizer
    implied: ClassVar[dict[str, Any]] = {"quantizer_kind": "gumbel"}

    phases: list[Phase] = Field(min_length=1, max_length=100)
    losses: GumbelLosses = GumbelLosses()
    temperature: Temperature = Temperature()
