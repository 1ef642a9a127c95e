"""Codes drawn by the softmax of linear scores (Gumbel-softmax, arXiv 1611.01144)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.randomness import SeededDraws
from openhart.scales import count_tokens
from openhart.training.run.flops import Counter
from openhart.training.tokenizer.bottleneck import Bottleneck, Gather, Passed
from openhart.training.tokenizer.gumbel.recipe import GumbelRecipe
from openhart.training.tokenizer.nearest.codebook import code_use
from openhart.training.tokenizer.recipe import Phase

SEEDS = 2**63 - 1


@dataclass(frozen=True)
class CodeNoise:
    """Random numbers of B samples with h·w codes of V.

    Attributes:
        uniform: (B, h·w, V) in [0, 1).
        temperature: τ of the softmax.
    """

    uniform: Tensor
    temperature: float


@dataclass(frozen=True)
class CodeNoiseSeeds:
    """The seeds of a batch's random numbers, which each process draws for its own samples on its device.

    Attributes:
        seeds: one per sample.
        shape: h·w and V.
        temperature: τ of the softmax.
    """

    seeds: list[int]
    shape: tuple[int, int]
    temperature: float

    def part(self, rows: slice, device: torch.device) -> CodeNoise:
        """The numbers of some of the samples, drawn on a device."""
        generators = [torch.Generator(device).manual_seed(seed) for seed in self.seeds[rows]]
        return CodeNoise(SeededDraws(generators).uniform(self.shape), self.temperature)


class DrawnCodes(Bottleneck[GumbelRecipe]):
    """Each code is drawn; the gradient is that of the softmax at a temperature that falls."""

    @property
    def tokens(self) -> int:
        """Codes of the only scale."""
        return count_tokens(self.tokenizer.quantizer.scales)

    @property
    def shape(self) -> tuple[int, int]:
        """Codes per image h·w and number of codes V."""
        return self.tokens, self.tokenizer.quantizer.codebook.num_embeddings

    def draw(self, number: int, phase: Phase, batch: int, generator: torch.Generator) -> CodeNoiseSeeds:
        """One seed per sample, and the temperature of the step."""
        seeds: list[int] = torch.randint(SEEDS, (batch,), generator=generator).tolist()
        return CodeNoiseSeeds(seeds, self.shape, self.recipe.temperature.at(number, self.recipe.steps))

    def stand_in(self, counter: Counter, batch: int) -> CodeNoise:
        """Numbers without storage."""
        return CodeNoise(counter.tensor(batch, *self.shape, needs_gradient=False), 1.0)

    def __call__(self, image: Tensor, choices: CodeNoise, phase: Phase) -> Passed:
        """Images (B, 3, H, W) → the vectors of drawn codes (B, z, h, w)."""
        features = self.tokenizer.encode(image)
        with torch.autocast(image.device.type, enabled=False):
            drawn = self.tokenizer.quantizer.sample(features.float(), choices.uniform, choices.temperature)
        loss = self.recipe.losses.kl_weight * drawn.divergence
        return Passed(drawn.features, loss, {"kl": drawn.divergence}, [drawn.codes])

    def report(self, passed: Passed, gather: Gather) -> dict[str, float]:
        """Use of codes. Collective."""
        return code_use(self.tokenizer.quantizer, [gather(found) for found in passed.codes])
