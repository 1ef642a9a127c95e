"""A transformer block: attention and MLP behind norms, which may be modulated."""

from torch import Tensor, nn

from openhart.transformer.attention import Attend, Attention
from openhart.transformer.layers import build_mlp
from openhart.transformer.rotary import Rotation


class Block(nn.Module):
    """Attention and MLP, each behind a norm and its part of the modulation.

    A modulation (B, 6, C) holds gate₁ gate₂ scale₁ scale₂ shift₁ shift₂: 1 for attention, 2 for the MLP.

    Args:
        attention: attention of the block.
        mlp: (B, N, C) → (B, N, C).
        norm: norm before attention, which takes a scale and a shift.
        dropout: probability with which an element of what attention and MLP add is dropped in training mode.
        mlp_norm: norm before the MLP; None for the one before attention.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: nn.Module,
        norm: nn.Module,
        dropout: float = 0.0,
        mlp_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.mlp_norm = mlp_norm
        self.attention = attention
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        rotation: Rotation | None,
        attend: Attend,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) → (B, N, C), or, for wanted positions (B, n) only, (B, n, C)."""
        added = self.attention(self.modulated_norm(x, modulation, 0), rotation, attend, wanted)
        if wanted is not None:
            x = x.take_along_dim(wanted[..., None], dim=1)
        return self.add_mlp(self.add(x, added, modulation, 0), modulation)

    def pre_attention(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, d) each; no token depends on another."""
        return self.attention.heads(self.modulated_norm(x, modulation, 0), rotation)

    def post_attention(self, x: Tensor, mixed: Tensor, modulation: Tensor | None) -> Tensor:
        """Add the result of attention, (B, H, N, d), then the MLP; no token depends on another."""
        return self.add_mlp(self.add(x, self.attention.merge(mixed), modulation, 0), modulation)

    def add_mlp(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """Add the result of the MLP, (B, N, C) → (B, N, C)."""
        return self.add(x, self.mlp(self.modulated_norm(x, modulation, 1)), modulation, 1)

    def add(self, x: Tensor, added: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        """Add the gated result of attention (``half`` 0) or of the MLP (1)."""
        added = self.dropout(added)
        return x + added if modulation is None else x + modulation[:, half, None] * added

    def norm_before(self, half: int) -> nn.Module:
        """The norm before attention (``half`` 0) or before the MLP (1)."""
        return self.mlp_norm if half and self.mlp_norm is not None else self.norm

    def modulated_norm(self, x: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        """The input of attention (``half`` 0) or of the MLP (1)."""
        norm = self.norm_before(half)
        if modulation is None:
            normed: Tensor = norm(x)
        else:
            normed = norm(x, modulation[:, 2 + half, None], modulation[:, 4 + half, None])
        return normed


def build_block(
    width: int,
    num_heads: int,
    mlp: str,
    mlp_ratio: float,
    norm: nn.Module,
    normalize_attention: bool,
    dropout: float = 0.0,
) -> Block:
    """A block of :class:`~openhart.transformer.model.HartTransformer`, by its settings."""
    return Block(
        Attention(width, num_heads, normalize_attention), build_mlp(mlp, width, mlp_ratio), norm, dropout
    )


def build_vit_block(
    width: int, num_heads: int, mlp_ratio: float, norm_eps: float, dropout: float = 0.0
) -> Block:
    """A block of ViT (arXiv 2010.11929, section 3.1) and GPT-2, without modulation: a LayerNorm with weight
    and bias before each half, attention logits q·k/√d, and the exact GELU.

    A bias of the keys, which some published blocks have, is left out: it adds the same number to all logits
    of a query, which softmax cancels.

    Args:
        width: C.
        num_heads: attention heads.
        mlp_ratio: hidden width over outer width of the MLP.
        norm_eps: ε of the norms.
        dropout: of what attention and MLP add, and of the MLP's hidden channels, in training mode.
    """
    return Block(
        Attention(width, num_heads, normalize=False, scale=1.0),
        build_mlp("gelu_exact", width, mlp_ratio, dropout),
        nn.LayerNorm(width, eps=norm_eps),
        dropout,
        nn.LayerNorm(width, eps=norm_eps),
    )
