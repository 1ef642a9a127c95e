"""Every generator and seed: of generation, of training and of data.

Each image draws from a generator of its own, so it is the same alone and in any batch. Each sample of a run
draws from a generator that depends on its place in the run, so a run is the same however it is interrupted
or split over processes. The formulas of the seeds must not change: runs are resumed by them.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from openhart.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None
FACTOR = 1_000_003
LARGEST_PRIME = 2**64 - 59  # below the largest seed of a generator, 2⁶⁴ − 1


class Draws(Protocol):
    """What generation asks for in place of chance; B is the number of images.

    Hand in another object than :class:`SeededDraws` to fix choices: greedy codes, recorded noise, the codes
    of another run.
    """

    batch: int

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        """One code per token from scores (B, N, V), −∞ where a code must not be drawn → (B, N).

        ``scale_index`` counts the calls of one generation from 0: scales, or places in raster order.
        """

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers uniform in [0, 1), (B, \\*shape)."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Normal noise, (B, \\*shape)."""

    def orders(self, count: int) -> Tensor:
        """A random order of ``count`` tokens per image, (B, count)."""


class SeededDraws:
    """Chance from one generator per image.

    Args:
        generators: one per image; they advance with every draw.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators
        self.batch = len(generators)

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        """Draw each token's code by its probability, (B, N, V) → (B, N)."""
        return draw_codes(logits, self.generators)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers uniform in [0, 1), (B, \\*shape)."""
        return self._stacked(torch.rand, shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Normal noise, (B, \\*shape)."""
        return self._stacked(torch.randn, shape)

    def orders(self, count: int) -> Tensor:
        """A random order of ``count`` tokens per image, (B, count)."""
        return self._stacked(torch.randperm, (count,))

    def _stacked(self, make: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return stack_random(partial(make, device=self.generators[0].device), shape, self.generators)


def draw_codes(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a code for each token, (B, N, V) → (B, N); each sample by its own generator."""
    shares = logits.softmax(dim=-1)
    drawn = [
        torch.multinomial(row.to(generator.device), 1, generator=generator)[:, 0]
        for row, generator in zip(shares, generators, strict=True)
    ]
    return torch.stack(drawn).to(logits.device)


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Numbers uniform in [0, 1) → as many that follow the standard Gumbel distribution, −log(−log u)."""
    return -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()


def expand_generators(generator: Generators, count: int, device: torch.device) -> list[torch.Generator]:
    """A generator for each of ``count`` images, started from a 63-bit seed of its own.

    They live where codes are drawn. Those that are given may live elsewhere: only seeds come from them.

    Args:
        generator: one, which gives a seed to each image in order; one per image; or None for seeds that
            differ with each call.
        count: images.
        device: where the images' generators live.

    Raises:
        UserError: something else, or another number of them.
    """
    if generator is None:
        generator = torch.Generator(device)
        generator.seed()
    if isinstance(generator, torch.Generator):
        generator = [generator] * count
    if not isinstance(generator, Sequence) or not all(
        isinstance(each, torch.Generator) for each in generator
    ):
        raise UserError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
    if len(generator) != count:
        raise UserError(f"give one generator per image: {count}, got {len(generator)}")
    return [_child(each, device) for each in generator]


def _child(parent: torch.Generator, device: torch.device) -> torch.Generator:
    seed = torch.randint(2**63 - 1, (), generator=parent, device=parent.device)
    return torch.Generator(device).manual_seed(int(seed))


def random_seed() -> int:
    """A seed of 32 bits that differs with each call."""
    return secrets.randbelow(2**32)


def seeded_generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """A generator on the CPU for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def mixed_generator(seed: int, *numbers: int) -> torch.Generator:
    """A generator that depends on a seed and on numbers, such as an epoch, in their order."""
    for number in numbers:
        seed = (seed * FACTOR + number) % 2**63
    return torch.Generator().manual_seed(seed)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of the choices that a training step makes for all its samples, equal on every process."""
    return torch.Generator().manual_seed((seed * FACTOR + step) * 4_099 % LARGEST_PRIME)


def sample_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One generator per training sample, by its place in the run.

    A sample draws the same values however batches are split over processes, and wherever a run resumes.

    Args:
        seed: seed of the run.
        first: number of samples that the whole run saw before these.
        count: number of samples.
    """
    start = ((seed + 1) << 40) + first
    return seeded_generators((start + place) % LARGEST_PRIME for place in range(count))


def seed_dropout(seed: int, place: int) -> None:
    """Seed the global generator, which dropout uses, so that a resumed run drops the same values.

    Args:
        seed: seed of the run.
        place: number of the batch in the whole run, over all processes.
    """
    torch.manual_seed(((seed + 2) << 40) + place)


def stack_random(
    make: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[torch.Generator]
) -> Tensor:
    """``make(*shape, generator=…)`` once per generator, stacked: (B, \\*shape)."""
    return torch.stack([make(*shape, generator=generator) for generator in generators])
