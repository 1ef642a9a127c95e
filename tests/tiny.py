"""Small random models, real in every part."""

import torch

from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.kl import KLAutoencoder
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.transformer.masked import MaskedTransformer
from openhart.transformer.model import HartTransformer
from openhart.transformer.raster import RasterTransformer

SCALES = [1, 2, 3, 4]
CONTEXT = (5, 12)


def tiny_tokenizer(**settings) -> HybridTokenizer:
    torch.manual_seed(0)
    defaults = {
        "base_channels": 32,
        "channel_multipliers": (1, 1),
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "patch_size": 4,
        "code_dim": 8,
        "codebook_size": 32,
        "scales": SCALES,
    }
    return HybridTokenizer(**{**defaults, **settings}).eval()


def tiny_transformer(**settings) -> HartTransformer:
    torch.manual_seed(0)
    defaults = {
        "depth": 2,
        "width": 32,
        "num_heads": 2,
        "scales": SCALES,
        "codebook_size": 32,
        "code_dim": 8,
        "context_dim": CONTEXT[1],
        "context_tokens": CONTEXT[0],
    }
    return shaken(HartTransformer(**{**defaults, **settings}))


def tiny_head(kind=TokenResidualHead, **settings) -> TokenResidualHead:
    torch.manual_seed(0)
    defaults = {"code_dim": 8, "condition_dim": 32, "width": 24, "depth": 2}
    return shaken(kind(**{**defaults, **settings}))


def shaken(model):
    """Random weights everywhere: what starts at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def random_context(batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(batch) % CONTEXT[0] + 1
    mask = torch.arange(CONTEXT[0]) < lengths[:, None]
    return torch.randn(batch, *CONTEXT, generator=generator), mask


def tiny_kl(**settings) -> KLAutoencoder:
    torch.manual_seed(0)
    defaults = {
        "base_channels": 32,
        "channel_multipliers": (1, 1, 1),
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "latent_channels": 4,
        "latent_scale": 0.5,
        "image_size": (16, 16),
    }
    return KLAutoencoder(**{**defaults, **settings}).eval()


def tiny_masked_transformer(**settings) -> MaskedTransformer:
    torch.manual_seed(0)
    defaults = {
        "encoder_depth": 1,
        "decoder_depth": 2,
        "width": 32,
        "num_heads": 2,
        "size": (4, 6),
        "latent_channels": 4,
        "buffer_tokens": 3,
        "context_dim": 32,
    }
    return shaken(MaskedTransformer(**{**defaults, **settings}))


def tiny_vqgan_tokenizer(**settings) -> VqganTokenizer:
    torch.manual_seed(0)
    defaults = {
        "base_channels": 32,
        "channel_multipliers": (1, 2),
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "attention_levels": (1,),
        "feature_channels": 6,
        "code_dim": 4,
        "codebook_size": 32,
        "scales": [4],
    }
    return shaken(VqganTokenizer(**{**defaults, **settings}))


def tiny_raster(**settings) -> RasterTransformer:
    torch.manual_seed(0)
    defaults = {
        "depth": 2,
        "width": 32,
        "num_heads": 2,
        "scales": [4],
        "codebook_size": 32,
        "context_dim": 32,
        "context_projection": False,
    }
    return shaken(RasterTransformer(**{**defaults, **settings}))
