"""Conditions from class labels, which an encoder that is trained with the transformer turns into context."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openhart.conditioning.encoder import ConditionEncoder
from openhart.conditioning.label import LabelEncoder
from openhart.data.sample import Sample, check_samples
from openhart.errors import UserError
from openhart.training.encoding.conditions import (
    ConditionCache,
    Conditions,
    EncoderInputs,
    check_kind,
    draw_dropped,
)
from openhart.training.generator.settings import Conditioning


class LabelConditions:
    """Class labels; an encoder that is trained with the transformer turns them into context.

    Args:
        settings: the recipe's ``conditioning``, with the number of classes.
        width: the transformer's width C.

    Raises:
        UserError: if the number of classes is missing.
    """

    def __init__(self, settings: Conditioning, width: int) -> None:
        if settings.classes is None:
            raise UserError("conditioning.num_classes must be given for kind: label")
        self.settings, self.width, self.classes = settings, width, settings.classes
        self.device = torch.device("cpu")

    def shape(self) -> dict[str, int]:
        """One token of the transformer's width."""
        return {"context_dim": self.width, "context_tokens": 1}

    def planned_shape(self, stated: Mapping[str, Any]) -> dict[str, int]:
        """One token of the transformer's width."""
        return self.shape()

    def check(self, samples: Iterable[Sample]) -> None:
        """Check the label of each sample."""
        check_samples(samples, "label", self.classes)

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Check that a model's encoder takes labels and has the recipe's number of classes."""
        check_kind(encoder, self.settings, name)
        if isinstance(encoder, LabelEncoder) and encoder.num_classes != self.classes:
            raise UserError(
                f"initial: {name} has {encoder.num_classes} classes, the recipe's "
                f"conditioning.num_classes is {self.classes}"
            )
        if self.settings.drop and isinstance(encoder, LabelEncoder) and not encoder.config.empty_class:
            raise UserError(
                f"initial: {name} has no vector for an empty condition, set conditioning.drop to 0"
            )

    def build_encoder(self, dim: int) -> nn.Module:
        """A new label encoder."""
        encoder: nn.Module = LabelEncoder(num_classes=self.classes, dim=dim)  # its config keeps names only
        return encoder

    def draw(self, samples: Sequence[Sample], generators: list[torch.Generator]) -> EncoderInputs:
        """Labels (B,) int64; the number of classes stands for the empty condition."""
        dropped = draw_dropped(self.settings, generators)
        labels = torch.tensor([sample.label(self.classes) for sample in samples])
        labels[dropped] = self.classes
        return (labels,)

    def remember(self, samples: Iterable[Sample]) -> None:
        """Nothing, since a label takes no time."""

    def store(self, number: int, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], list[Sample]]:
        """No tensors, since the samples hold the labels; each label is checked."""
        for sample in samples:
            sample.label()
        return {}, list(samples)

    def from_cache(self, cache: ConditionCache) -> Conditions:
        """These conditions, since the samples hold the labels."""
        return self

    def components(self, encoder: nn.Module, generates: bool) -> dict[str, Any]:
        """The label encoder."""
        return {"label_encoder": encoder}


class NoConditions(LabelConditions):
    """One class, of which all images are: the condition of an unconditional model, which has no empty one.

    Args:
        settings: the recipe's ``conditioning``.
        width: the transformer's width C.
    """

    def check(self, samples: Iterable[Sample]) -> None:
        """Any sample will do."""

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Check that a model's encoder has one class."""
        if not isinstance(encoder, LabelEncoder) or encoder.num_classes != 1:
            raise UserError(f"initial: {name} has a condition, but the recipe's conditioning.kind is none")

    def build_encoder(self, dim: int) -> nn.Module:
        """A new label encoder of one class."""
        encoder: nn.Module = LabelEncoder(num_classes=1, dim=dim, empty_class=False)
        return encoder

    def draw(self, samples: Sequence[Sample], generators: list[torch.Generator]) -> EncoderInputs:
        """Zeros (B,) int64."""
        return (torch.zeros(len(samples), dtype=torch.long),)

    def store(self, number: int, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], list[Sample]]:
        """Nothing."""
        return {}, list(samples)
