"""Losses that align hidden states with the embeddings of codes (reAR, arXiv 2510.04450)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.scales import Scales
from openhart.training.generator.hart.settings import EmbeddingLosses


class EmbeddingAlignment(nn.Module):
    """Two MLPs that predict embeddings of codes from hidden states; they are used in training only.

    From the output of the first block, the code of the previous scale at each position is predicted; from the
    output of a later block, the code to be generated. The loss is 1 − cosine similarity. A wrong code with a
    near embedding therefore costs little, as its error in the image is small.

    Args:
        width: C, channels of the hidden states.
        code_dim: z.
        depth: number of the transformer's blocks.
        settings: the recipe's ``embedding_losses``.
    """

    def __init__(self, width: int, code_dim: int, depth: int, settings: EmbeddingLosses) -> None:
        super().__init__()
        self.settings = settings
        self.late = max(round(settings.depth * depth), 1) - 1
        self.current = _mlp(width, settings.hidden, code_dim) if settings.current else None
        self.target = _mlp(width, settings.hidden, code_dim) if settings.target else None

    def observer(self) -> "Observed":
        """Keeps the hidden states of one forward pass that the losses need."""
        return Observed((0, self.late))

    def forward(
        self, observed: "Observed", current: Tensor, target: Tensor, codebook: Tensor
    ) -> dict[str, Tensor]:
        """The losses, unweighted, by name.

        Args:
            observed: outputs of the blocks.
            current: codes (B, n) of the previous scale at each of the last n positions.
            target: codes (B, m) to be predicted at the last m positions.
            codebook: (V, z).
        """
        found = {}
        pairs = (("current", self.current, 0, current), ("target", self.target, self.late, target))
        for name, mlp, index, codes in pairs:
            if mlp is not None:
                states = observed.states[index][:, -codes.shape[1] :]
                likeness = F.cosine_similarity(mlp(states).float(), codebook[codes].float(), dim=-1)
                found[name] = 1 - likeness.mean()
        return found

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the losses."""
        weights = {"current": self.settings.current, "target": self.settings.target}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def build_alignment(settings: EmbeddingLosses | None, transformer: Any) -> EmbeddingAlignment | None:
    """The MLPs of a recipe's ``embedding_losses`` for a transformer; None for None."""
    if settings is None:
        return None
    shape = transformer.config
    return EmbeddingAlignment(shape.width, shape.code_dim, shape.depth, settings)


class Observed:
    """Outputs of some of a transformer's blocks, by their index."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        self.blocks = blocks
        self.states: dict[int, Tensor] = {}

    def __call__(self, index: int, x: Tensor) -> None:
        """Keep the output of a block, (B, N, C)."""
        if index in self.blocks:
            self.states[index] = x


def codes_before(codes: list[Tensor], scales: Scales) -> list[Tensor]:
    """For scales 2 … K the code of the previous scale at each position, (B, h_k·w_k) each."""
    found = []
    for before, (h, w), (height, width) in zip(codes, scales, scales[1:], strict=False):
        rows = torch.arange(height, device=before.device) * h // height
        columns = torch.arange(width, device=before.device) * w // width
        found.append(before[:, (rows[:, None] * w + columns).flatten()])
    return found


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, out))
