"""A transformer block: attention and MLP behind modulated norms."""

from torch import Tensor, nn

from openhart.transformer.attention import Attend, Attention, Rotation
from openhart.transformer.layers import build_mlp, modulate


class Block(nn.Module):
    """Attention and MLP, each behind one shared norm and its part of the modulation.

    A modulation (B, 6, C) holds gate₁ gate₂ scale₁ scale₂ shift₁ shift₂. In training, dropout acts on what
    attention and MLP add.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp: str,
        mlp_ratio: float,
        norm: nn.Module,
        unit: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.attention = Attention(width, num_heads, unit)
        self.mlp = build_mlp(mlp, width, mlp_ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None, attend: Attend
    ) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        found = self.attention(self._norm(x, modulation, 0), rotation, attend)
        return self._add_mlp(self._add(x, found, modulation, 0), modulation)

    def before(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, d) each; every token by itself."""
        return self.attention.heads(self._norm(x, modulation, 0), rotation)

    def after(self, x: Tensor, mixed: Tensor, modulation: Tensor | None) -> Tensor:
        """Take in what attention found, (B, H, N, d), then the MLP; every token by itself."""
        return self._add_mlp(self._add(x, self.attention.merge(mixed), modulation, 0), modulation)

    def _add_mlp(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        return self._add(x, self.mlp(self._norm(x, modulation, 1)), modulation, 1)

    def _add(self, x: Tensor, found: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        found = self.dropout(found)
        return x + found if modulation is None else x + modulation[:, half, None] * found

    def _norm(self, x: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        if modulation is None:
            return self.norm(x)
        return modulate(self.norm, x, modulation[:, 2 + half, None], modulation[:, 4 + half, None])
