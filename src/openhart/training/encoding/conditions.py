"""What conditions a generator's samples: captions (``captions.py``) or class labels (``labels.py``)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openhart.conditioning.encoder import ConditionEncoder
from openhart.data.sample import Sample
from openhart.errors import UserError
from openhart.randomness import stack_random
from openhart.training.generator.settings import Conditioning

EncoderInputs = tuple[Tensor, ...]


class Conditions(Protocol):
    """Draws the condition of each sample, and builds the encoder that is trained with the transformer.

    Attributes:
        device: of the frozen encoders.
    """

    device: torch.device

    def shape(self) -> dict[str, int]:
        """``context_dim`` and ``context_tokens`` of the transformer."""

    def planned_shape(self, stated: Mapping[str, Any]) -> dict[str, int]:
        """The same without loading an encoder.

        Args:
            stated: the recipe's ``model``, which must state the ``context_dim`` of an encoder that is not
                packaged.

        Raises:
            UserError: if it does not.
        """

    def check(self, samples: Iterable[Sample]) -> None:
        """Check that every sample has what it is conditioned on.

        Raises:
            UserError: if a caption or a label is missing or not valid.
        """

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Check that the encoder of the initial model, whose folder is ``name``, agrees with the recipe.

        Raises:
            UserError: if they differ.
        """

    def build_encoder(self, dim: int) -> nn.Module:
        """A new encoder with D channels, which turns the result of :meth:`draw` into context and mask."""

    def draw(self, samples: Sequence[Sample], generators: list[torch.Generator]) -> EncoderInputs:
        """One condition per sample, some replaced by the empty condition: the encoder's inputs."""

    def remember(self, samples: Iterable[Sample]) -> None:
        """Encode what the samples are conditioned on in advance, where that takes time."""

    def store(self, number: int, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], list[Sample]]:
        """The conditions that part ``number`` of a cache stores, and the samples with their rows in it."""

    def from_cache(self, cache: "ConditionCache") -> "Conditions":
        """The same conditions, read from a cache."""

    def components(self, encoder: nn.Module, generates: bool) -> dict[str, Any]:
        """Arguments of the pipeline for the encoder; frozen encoders only if the pipeline ``generates``."""


class ConditionCache(Protocol):
    """A cache on disk that holds encoded captions."""

    context: dict[str, int]

    def condition(self, sample: Sample, choice: int) -> tuple[Tensor, Tensor]:
        """Context (T, D) and mask (T,) of one of a sample's captions."""


def check_kind(encoder: ConditionEncoder, settings: Conditioning, name: str) -> None:
    """Check that a model's encoder takes what the recipe's samples have: text or labels.

    Raises:
        UserError: if it does not.
    """
    if encoder.kind != settings.kind:
        raise UserError(
            f"initial: {name} is conditioned on {encoder.kind}, but the recipe's conditioning.kind is "
            f"{settings.kind}"
        )


def draw_dropped(settings: Conditioning, generators: list[torch.Generator]) -> Tensor:
    """Which samples get the empty condition, (B,) bool."""
    return stack_random(torch.rand, (1,), generators)[:, 0] < settings.drop
