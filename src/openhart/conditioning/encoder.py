"""The interface of a condition encoder: prompts or class labels → context tokens."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from diffusers.utils import BaseOutput
from torch import Tensor, nn

from openhart.errors import UserError

Condition = tuple[Tensor, Tensor]


@dataclass
class ConditionOutput(BaseOutput):
    """What a call of a trained condition encoder returns.

    Attributes:
        context: (B, T, D).
        mask: (B, T) bool, true at real positions.
    """

    context: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # accelerate rebuilds outputs from one dict


class ConditionEncoder(Protocol):
    """Encodes what an image is to show as context tokens for the transformer.

    Attributes:
        kind: ``text`` or ``label``, as ``conditioning.kind`` of a recipe.
        argument: the pipeline's argument that holds the values, ``prompt`` or ``class_labels``.
    """

    kind: ClassVar[str]
    argument: ClassVar[str]

    @property
    def dim(self) -> int:
        """Channels D of the context."""

    @property
    def tokens(self) -> int:
        """Positions T of the context."""

    def encode(self, values: Any, max_sequence_length: int | None = None) -> Condition:
        """Encode one value or a list of B values.

        Args:
            values: prompts, or class labels.
            max_sequence_length: for prompts only, the number of tokens to cut a prompt to; None for T.

        Returns:
            context (B, T, D), and its mask (B, T) bool, true at real positions.

        Raises:
            UserError: values that cannot be encoded.
        """

    def empty(self, batch: int) -> Condition:
        """The empty condition, which guidance steers away from: context (B, T, D) and mask (B, T)."""


class EncodedContext(nn.Module):
    """Takes the place of a trained encoder where the context was encoded before; it has no weights."""

    def forward(self, context: Tensor, mask: Tensor) -> ConditionOutput:
        """Context (B, T, D) and mask (B, T), unchanged."""
        return ConditionOutput(context, mask)


def check_embeds(embeds: Any, mask: Any, encoder: ConditionEncoder, name: str = "prompt") -> Condition:
    """Hold a context that a caller encoded against the shape that the model takes.

    Args:
        embeds: context (B, T, D).
        mask: (B, T), true at real positions; None for everywhere.
        encoder: gives T and D.
        name: the prefix of the two arguments' names, ``prompt`` or ``negative_prompt``.

    Raises:
        UserError: they are no tensors, or of another shape.
    """
    expected = (encoder.tokens, encoder.dim)
    if not isinstance(embeds, Tensor) or not isinstance(mask, Tensor | None):
        raise UserError(f"{name}_embeds and {name}_attention_mask must be tensors")
    if not len(embeds) or embeds.ndim != 3 or tuple(embeds.shape[1:]) != expected:
        raise UserError(
            f"{name}_embeds must be (batch, {expected[0]}, {expected[1]}), got {tuple(embeds.shape)}"
        )
    if mask is None:
        mask = embeds.new_ones(embeds.shape[:2])
    if mask.shape != embeds.shape[:2]:
        raise UserError(f"{name}_attention_mask must be {tuple(embeds.shape[:2])}, got {tuple(mask.shape)}")
    return embeds, mask.bool()
