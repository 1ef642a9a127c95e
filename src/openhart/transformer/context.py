"""What the scales derive from the context, computed once per image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.transformer.rotary import Rotation


@dataclass(frozen=True)
class ScaleContext:
    """What the transformer needs beside the inputs to run the tokens of one scale.

    Attributes:
        level: (C,), embedding of the scale's index.
        modulations: one tensor (B, 6, C) per block, or None.
        rotation: cosines and sines, (B, 1, n, d), or None.
        position: learned positions, (n, C) or (B, n, C), or None.
        head: (B, 2, C), scale and shift before the logits.
        indices: (B, n), which of the scale's tokens these are, row-major; None for all of them.
        base: (B, N, C), hidden states of the scale's other tokens; None returns only the n tokens.
    """

    level: Tensor
    modulations: list[Tensor] | None
    rotation: Rotation | None
    position: Tensor | None
    head: Tensor
    indices: Tensor | None = None
    base: Tensor | None = None


@dataclass(frozen=True)
class PreparedContext:
    """What all scales derive from the context, computed once.

    Attributes:
        tokens: (B, T, C), embedded context.
        modulations: one tensor (B, 6, C) per block, or None: gates, scales and shifts of attention and MLP.
        head: (B, 2, C), scale and shift before the logits.
        levels: (K, C), embedding of each scale's index; the context has the first one.
        rotations: cosines and sines of the context, (B, 1, T, d), and of scales 2 … K,
            (B, 1, h_k·w_k, d); or None.
        positions: learned positions of the context, (T, C), and of scales 2 … K, (h_k·w_k, C); or None.
    """

    tokens: Tensor
    modulations: list[Tensor] | None
    head: Tensor
    levels: Tensor
    rotations: list[Rotation] | None
    positions: list[Tensor] | None = None

    def concatenate(self, other: "PreparedContext") -> "PreparedContext":
        """These samples followed by as many of another context, which may have one sample and one token."""

        def join(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([mine, theirs.expand_as(mine)])

        modulations, rotations = self.modulations, self.rotations
        if modulations is not None and other.modulations is not None:
            modulations = [join(*pair) for pair in zip(modulations, other.modulations, strict=True)]
        if rotations is not None and other.rotations is not None:
            pairs = zip(rotations, other.rotations, strict=True)
            rotations = [(join(mine[0], theirs[0]), join(mine[1], theirs[1])) for mine, theirs in pairs]
        tokens, head = join(self.tokens, other.tokens), join(self.head, other.head)
        return PreparedContext(tokens, modulations, head, self.levels, rotations, self.positions)

    def at_scale(
        self, index: int, rows: int, indices: Tensor | None = None, base: Tensor | None = None
    ) -> ScaleContext:
        """What the transformer needs to run tokens of one scale for the first samples.

        Args:
            index: of the scale; 0 is the context.
            rows: number of samples.
            indices: (rows, n), which of the scale's tokens, row-major; None for all of them.
            base: (rows, N, C), hidden states of the scale's other tokens; None returns only the n tokens.
        """
        modulations = self.modulations and [part[:rows] for part in self.modulations]
        rotation = None if self.rotations is None else _rows(self.rotations[index], rows)
        position = None if self.positions is None else self.positions[index]
        if indices is not None:
            rotation = rotation and (_take(rotation[0], indices), _take(rotation[1], indices))
            position = None if position is None else position[indices]
        head, level = self.head[:rows], self.levels[index]
        return ScaleContext(level, modulations, rotation, position, head, indices, base)


def _rows(rotation: Rotation, rows: int) -> Rotation:
    return rotation[0][:rows], rotation[1][:rows]


def _take(part: Tensor, indices: Tensor) -> Tensor:
    """Cosines or sines (B, 1, N, d) of the tokens (B, n), (B, 1, n, d)."""
    return part.expand(len(indices), -1, -1, -1).take_along_dim(indices[:, None, :, None], dim=2)
