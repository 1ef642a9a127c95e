"""Blocks of plain pre-norm transformers (GPT-2, ViT)."""

import torch
from torch import nn

from openhart.transformer.attention import attend_all, attend_causal, block_causal
from openhart.transformer.block import build_vit_block
from tests.tiny import shaken

WIDTH, HEADS = 32, 4


def test_it_equals_the_pre_norm_layer_of_torch_whatever_its_key_bias():
    block = shaken(build_vit_block(WIDTH, HEADS, 4.0, 1e-5))
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    parts = {
        "self_attn.out_proj": block.attention.proj,
        "linear1": block.mlp[0],
        "linear2": block.mlp[2],
        "norm1": block.norm,
        "norm2": block.mlp_norm,
    }
    weights = {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }
    bias = block.attention.qkv_bias.detach().clone()
    bias[WIDTH : 2 * WIDTH] = torch.randn(WIDTH)
    joint = {"self_attn.in_proj_weight": block.attention.qkv.weight, "self_attn.in_proj_bias": bias}
    layer.load_state_dict(weights | joint)
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x, None, None, attend_all), layer(x), atol=1e-5, rtol=0)


def test_causal_attention_is_that_of_blocks_of_one_position():
    block = shaken(build_vit_block(WIDTH, HEADS, 4.0, 1e-5))
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    in_blocks = block(x, None, None, block_causal([1] * 7, x.device))
    torch.testing.assert_close(block(x, None, None, attend_causal), in_blocks, atol=1e-6, rtol=0)
