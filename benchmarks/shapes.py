"""Models of published sizes with random weights, so that speed can be measured without released files."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openhart.conditioning.label import LabelEncoder
from openhart.pipelines.hart import HartPipeline
from openhart.presets import PUBLISHED_SCALES
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer


@dataclass(frozen=True)
class Shape:
    """A published model and its image side in pixels."""

    family: str
    depth: int
    pixels: int

    @property
    def scales(self) -> tuple[int, ...]:
        return PUBLISHED_SCALES[self.pixels]


SHAPES = {f"hart-0.7b-{pixels}": Shape("hart", 24, pixels) for pixels in (256, 512, 1024, 2048)}
SHAPES |= {f"var-d{depth}-256": Shape("var", depth, 256) for depth in (16, 20, 24, 30)}


def build_meta(shape: Shape) -> tuple[HybridTokenizer, HartTransformer, TokenResidualHead | None]:
    """Tokenizer, transformer and residual head of this shape, on the meta device."""
    common: dict[str, Any] = {"scales": shape.scales, "depth": shape.depth}
    with torch.device("meta"):
        tokenizer = HybridTokenizer(scales=shape.scales, hybrid=shape.family == "hart")
        if shape.family == "hart":
            return tokenizer, HartTransformer(**common), TokenResidualHead()
        width = 64 * shape.depth
        transformer = HartTransformer(
            **common, width=width, num_heads=shape.depth, context_dim=width, context_tokens=1,
            norm="layer", mlp="gelu", modulation="per_block", levels="learned", positions="learned",
            normalize_attention=True, context_norm=False, context_projection=False,
        )  # fmt: skip
        return tokenizer, transformer, None


def build(shape: Shape, seed: int = 0) -> HartPipeline:
    """A pipeline of this shape with random weights from a seed."""
    tokenizer, transformer, head = build_meta(shape)
    labels = LabelEncoder(num_classes=1000, dim=transformer.config.width) if shape.family == "var" else None
    for index, model in enumerate((tokenizer, transformer, head, labels)):
        if model is not None:
            randomise(model, seed * 101 + index)
    return HartPipeline(
        image_tokenizer=tokenizer,
        transformer=transformer,
        residual_head=head,
        label_encoder=labels,
        max_tokens=transformer.config.context_tokens,
        sampling={"hold_last_guidance": shape.family == "hart"},
    )


def randomise(module: nn.Module, seed: int) -> None:
    """Draw random weights that preserve the scale of activations."""
    module.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and not name.endswith((".table", "log_temperature", "position_embed")):
                deviation = parameter[0].numel() ** -0.5
                parameter.normal_(0, 1.0 if "codebook" in name else deviation, generator=generator)
            else:
                parameter.normal_(0, 0.1, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter += 1
