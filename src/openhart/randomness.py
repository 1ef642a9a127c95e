"""Every random choice of generation: one generator per image, and the object that draws with them.

Because each image draws from a generator of its own, it is the same alone and in any batch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from openhart.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


class Draws(Protocol):
    """What generation asks for in place of chance; B is the number of images.

    Hand in another object than :class:`SeededDraws` to fix choices: greedy codes, recorded noise, the codes
    of another run.
    """

    batch: int

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        """One code per token from scores (B, N, V), −∞ where a code must not be drawn → (B, N)."""

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
        return self._stacked(torch.rand, *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Normal noise, (B, \\*shape)."""
        return self._stacked(torch.randn, *shape)

    def orders(self, count: int) -> Tensor:
        """A random order of ``count`` tokens per image, (B, count)."""
        return self._stacked(torch.randperm, count)

    def _stacked(self, make: Callable[..., Tensor], *size: int) -> Tensor:
        return torch.stack([make(*size, generator=each, device=each.device) for each in self.generators])


def draw_codes(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a code for each token, (B, N, V) → (B, N); each sample by its own generator."""
    shares = logits.softmax(dim=-1)
    drawn = [
        torch.multinomial(row.to(generator.device), 1, generator=generator)[:, 0]
        for row, generator in zip(shares, generators, strict=True)
    ]
    return torch.stack(drawn).to(logits.device)


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
