"""What a call of the transformer returns."""

from dataclasses import dataclass

from diffusers.utils import BaseOutput
from torch import Tensor

from openhart.transformer.context import PreparedContext


@dataclass
class HartTransformerOutput(BaseOutput):
    """Output of :class:`~openhart.transformer.model.HartTransformer`.

    Attributes:
        hidden_states: (B, n, C), states after the last block.
        logits: (B, n, V), float32 scores of every code, from calls with a cache; else None.
        prepared: what all scales derive from the context, from the call that fills the cache; else None.
    """

    hidden_states: Tensor
    logits: Tensor | None = None
    prepared: PreparedContext | None = None
