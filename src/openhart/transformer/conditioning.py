"""What the scales derive from the context, computed once per image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.transformer.attention import Rotation


@dataclass(frozen=True)
class ScaleConditioning:
    """What the tokens of one scale are given.

    Attributes:
        level: (C,), embedding of the scale's index.
        modulations: a tensor per block, (B, 6, C), or None.
        rotation: cosines and sines, (B, 1, n, d), or None.
        position: learned positions, (n, C) or (B, n, C), or None.
        head: (B, 2, C), scale and shift before the logits.
        places: (B, n), where these tokens stand among the scale's; None for all.
        base: (B, N, C), hidden states that the scale's other tokens keep; None to leave them out.
    """

    level: Tensor
    modulations: list[Tensor] | None
    rotation: Rotation | None
    position: Tensor | None
    head: Tensor
    places: Tensor | None = None
    base: Tensor | None = None


@dataclass(frozen=True)
class Conditioning:
    """What all scales derive from the context.

    Attributes:
        tokens: (B, T, C), embedded context.
        modulations: a tensor per block, (B, 6, C), or None: gates, scales and shifts of both halves.
        head: (B, 2, C), scale and shift before the logits.
        levels: (K, C), embedding of each scale's index; the context's is the first.
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

    def beside(self, other: "Conditioning") -> "Conditioning":
        """These samples, then as many of another conditioning, which may be one sample and one token."""

        def join(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([mine, theirs.expand_as(mine)])

        modulations, rotations = self.modulations, self.rotations
        if modulations is not None and other.modulations is not None:
            modulations = [join(*pair) for pair in zip(modulations, other.modulations, strict=True)]
        if rotations is not None and other.rotations is not None:
            pairs = zip(rotations, other.rotations, strict=True)
            rotations = [(join(mine[0], theirs[0]), join(mine[1], theirs[1])) for mine, theirs in pairs]
        tokens, head = join(self.tokens, other.tokens), join(self.head, other.head)
        return Conditioning(tokens, modulations, head, self.levels, rotations, self.positions)

    def at_scale(
        self, index: int, rows: int, places: Tensor | None = None, base: Tensor | None = None
    ) -> ScaleConditioning:
        """What the first samples' tokens of a scale are given.

        Args:
            index: of the scale; 0 is the context.
            rows: how many samples.
            places: (rows, n), which of the scale's tokens; None for all.
            base: (rows, N, C), hidden states that the scale's other tokens keep; None to leave them out.
        """
        modulations = self.modulations and [part[:rows] for part in self.modulations]
        rotation = None if self.rotations is None else _rows(self.rotations[index], rows)
        position = None if self.positions is None else self.positions[index]
        if places is not None:
            rotation = None if rotation is None else (_take(rotation[0], places), _take(rotation[1], places))
            position = None if position is None else position[places]
        head, level = self.head[:rows], self.levels[index]
        return ScaleConditioning(level, modulations, rotation, position, head, places, base)


def _rows(rotation: Rotation, rows: int) -> Rotation:
    return rotation[0][:rows], rotation[1][:rows]


def _take(part: Tensor, places: Tensor) -> Tensor:
    """Cosines or sines (B, 1, N, d) of the places (B, n), (B, 1, n, d)."""
    return part.expand(len(places), -1, -1, -1).take_along_dim(places[:, None, :, None], dim=2)
