"""All random generators and seeds of generation, training and data.

Each image is drawn from its own generator, so it does not depend on the other images of its batch. Each
training sample is drawn from a generator that depends on its position in the run, so a run gives the same
result if it is interrupted and resumed, or divided among other processes. The formulas of the seeds must stay
unchanged, because existing runs are resumed with them.
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
    """Interface of the random choices of generation; B is the number of images.

    The default is :class:`SeededDraws`. Other implementations fix the choices, for example greedy codes,
    recorded noise, or the codes of another run.

    Attributes:
        batch: B.
    """

    batch: int

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        """Choose one code per token.

        Args:
            logits: (B, N, V); −∞ for a code that must not be chosen.
            scale_index: number of previous calls in this generation: index of the scale, or of the position
                in raster order.

        Returns:
            (B, N).
        """

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform random numbers in [0, 1), (B, \\*shape)."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise, (B, \\*shape)."""

    def orders(self, count: int) -> Tensor:
        """One random permutation of ``count`` tokens per image, (B, count)."""


class SeededDraws:
    """Random choices from one generator per image.

    Args:
        generators: one per image; every draw advances them.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators
        self.batch = len(generators)

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        """Sample one code per token from the softmax of the logits, (B, N, V) → (B, N)."""
        return draw_codes(logits, self.generators)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform random numbers in [0, 1), (B, \\*shape)."""
        return self._stacked(torch.rand, shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise, (B, \\*shape)."""
        return self._stacked(torch.randn, shape)

    def orders(self, count: int) -> Tensor:
        """One random permutation of ``count`` tokens per image, (B, count)."""
        return self._stacked(torch.randperm, (count,))

    def _stacked(self, make: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return stack_random(partial(make, device=self.generators[0].device), shape, self.generators)


def draw_codes(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample one code per token from the softmax of the logits.

    Args:
        logits: (B, N, V).
        generators: one per image. If they are on another device, they draw one uniform number per token there
            (:func:`codes_at`), so that the probabilities need not go there.

    Returns:
        (B, N), on the device of the logits.
    """
    probabilities = logits.softmax(dim=-1)
    if generators[0].device.type != logits.device.type:
        return codes_at(probabilities, stack_random(torch.rand, logits.shape[1:-1], generators))
    codes = [
        torch.multinomial(row, 1, generator=generator)[:, 0]
        for row, generator in zip(probabilities, generators, strict=True)
    ]
    return torch.stack(codes)


def codes_at(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """One code per token by inversion of the cumulative distribution.

    Args:
        probabilities: (B, N, V), not negative; a code of probability 0 is never chosen.
        uniform: (B, N) in [0, 1), on any device.

    Returns:
        (B, N): the codes whose part of the cumulative distribution the uniform numbers fall into.
    """
    cumulative = probabilities.cumsum(dim=-1)
    below_total = cumulative[..., -1:] * (1 - torch.finfo(cumulative.dtype).eps)
    wanted = uniform.to(cumulative)[..., None] * below_total
    return torch.searchsorted(cumulative, wanted, right=True)[..., 0]


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Uniform numbers u in [0, 1) → standard Gumbel noise −log(−log u) of the same shape."""
    return -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()


def expand_generators(generator: Generators, count: int, device: torch.device) -> list[torch.Generator]:
    """One random generator per image, each with its own 63-bit seed.

    Only the seeds are drawn from the given generators, which may be on another device.

    Args:
        generator: one generator, which draws the seeds of all images in order; one per image; or None for new
            seeds in every call.
        count: number of images.
        device: device of the returned generators.

    Raises:
        UserError: if the argument has another type, or if the number of generators is not ``count``.
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
    return [_seeded_from(each, device) for each in generator]


def choose_draws(draws: Draws | None, generator: Generators, count: int, device: torch.device) -> Draws:
    """The draws of a call: those that are given, or chance from its generators for ``count`` images.

    Raises:
        UserError: if both are given, or as :func:`expand_generators`.
    """
    if draws is None:
        return SeededDraws(expand_generators(generator, count, device))
    if generator is not None:
        raise UserError("give generator or draws, not both")
    return draws


def _seeded_from(parent: torch.Generator, device: torch.device) -> torch.Generator:
    seed = torch.randint(2**63 - 1, (), generator=parent, device=parent.device)
    return torch.Generator(device).manual_seed(int(seed))


def random_seed() -> int:
    """A random seed of 32 bits, new in every call."""
    return secrets.randbelow(2**32)


def seeded_generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One generator on the CPU per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def mixed_generator(seed: int, *numbers: int) -> torch.Generator:
    """A generator whose state depends only on a seed and on numbers (such as an epoch) and their order."""
    for number in numbers:
        seed = (seed * FACTOR + number) % 2**63
    return torch.Generator().manual_seed(seed)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Generator for random choices that hold for all samples of a training step, equal in all processes."""
    return torch.Generator().manual_seed((seed * FACTOR + step) * 4_099 % LARGEST_PRIME)


def sample_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One generator per training sample, seeded by the position of the sample in the run.

    So a sample gets the same random values for any number of processes, and after a run is resumed.

    Args:
        seed: seed of the run.
        first: position of the first sample: the number of samples of the whole run before it.
        count: number of samples.
    """
    start = ((seed + 1) << 40) + first
    return seeded_generators((start + index) % LARGEST_PRIME for index in range(count))


def seed_dropout(seed: int, batch_index: int) -> None:
    """Seed the global generator, which dropout uses, so that a resumed run drops the same values.

    Args:
        seed: seed of the run.
        batch_index: index of the batch in the whole run, over all processes.
    """
    torch.manual_seed(((seed + 2) << 40) + batch_index)


def stack_random(
    make: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[torch.Generator]
) -> Tensor:
    """``make(*shape, generator=…)`` once per generator, stacked: (B, \\*shape)."""
    return torch.stack([make(*shape, generator=generator) for generator in generators])
