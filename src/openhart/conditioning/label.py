"""Class labels → one context token (VAR, arXiv 2404.02905, section 3.2)."""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from openhart.checks import Count, Flag, Width, checked
from openhart.conditioning.encoder import Condition, ConditionOutput
from openhart.errors import UserError
from openhart.loading import CheckedLoading


class LabelEncoder(CheckedLoading, ModelMixin, ConfigMixin):
    """A condition encoder with one learned vector per class, and one for no class.

    Args:
        num_classes: number of classes N. Label N means no class.
        dim: channels D of the context.
        empty_class: there is a vector for no class; without it, the model has no empty condition.

    Raises:
        UserError: sizes that are not positive.
    """

    kind: ClassVar[str] = "label"
    argument: ClassVar[str] = "class_labels"
    tokens = 1

    @register_to_config
    @checked
    def __init__(self, num_classes: Count = 1000, dim: Width = 1024, empty_class: Flag = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes + empty_class, dim)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)

    @property
    def dim(self) -> int:
        """Channels D of the context."""
        return self.embedding.embedding_dim

    @property
    def num_classes(self) -> int:
        """Number of classes N; the label N means no class."""
        return self.embedding.num_embeddings - int(self.config.empty_class)

    def forward(self, labels: Tensor, return_dict: bool = True) -> ConditionOutput | Condition:
        """Embed class labels.

        Args:
            labels: (B,) in 0 … N, where N means no class.
            return_dict: return a :class:`ConditionOutput`; else the tuple of context and mask.

        Returns:
            context (B, 1, D) and mask (B, 1) bool.
        """
        context = cast(Tensor, self.embedding(labels))[:, None]
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        return ConditionOutput(context, mask) if return_dict else (context, mask)

    def encode(
        self, values: int | Sequence[int] | Tensor, max_sequence_length: int | None = None
    ) -> Condition:
        """Encode one label or B labels.

        Args:
            values: labels in 0 … N, where N means no class.
            max_sequence_length: must be None, since a label is one token.

        Returns:
            context (B, 1, D) and mask (B, 1) bool.

        Raises:
            UserError: values that are no labels of this model.
        """
        if max_sequence_length is not None:
            raise UserError("max_sequence_length applies to prompts, and this model is class-conditional")
        try:
            labels = torch.as_tensor(values).reshape(-1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"class_labels must be integers, got {values!r}") from error
        if not len(labels) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise UserError(f"class_labels must be integers, got {values!r}")
        count = self.num_classes
        if labels.min() < 0 or labels.max() >= self.embedding.num_embeddings:
            none = f", or {count} for no class" if self.config.empty_class else ""
            raise UserError(f"class_labels must be 0 … {count - 1}{none}, got {values!r}")
        return self._encode(labels)

    def empty(self, batch: int) -> Condition:
        """The condition of no class: context (B, 1, D) and mask (B, 1).

        Raises:
            UserError: the model has none.
        """
        if not self.config.empty_class:
            raise UserError("the model has no empty condition, so there is nothing to guide away from")
        return self._encode(torch.full((batch,), self.num_classes))

    def _encode(self, labels: Tensor) -> Condition:
        if self.device.type != "meta":  # an offloaded encoder moves its inputs itself
            labels = labels.to(self.device)
        return cast(Condition, self(labels, return_dict=False))
