"""A block with the settings of a plain pre-norm transformer (GPT-2, ViT)."""

import torch
from torch import nn

from openhart.transformer.attention import Attention, attend_all, attend_causal, block_causal
from openhart.transformer.block import Block
from openhart.transformer.layers import build_mlp, build_norm
from tests.tiny import shaken

WIDTH, HEADS = 32, 4


def plain_block() -> Block:
    norms = [build_norm("layer_affine", WIDTH, 1e-5) for _ in range(2)]
    attention = Attention(WIDTH, HEADS, normalize=False, key_bias=True, scale=1.0)
    return shaken(Block(attention, build_mlp("gelu_exact", WIDTH, 4.0), norms[0], mlp_norm=norms[1]))


def test_it_equals_the_pre_norm_layer_of_torch():
    block = plain_block()
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    attention = block.attention
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": attention.qkv.weight,
            "self_attn.in_proj_bias": attention.qkv_bias,
            **{f"self_attn.out_proj.{name}": value for name, value in attention.proj.state_dict().items()},
            **{f"linear1.{name}": value for name, value in block.mlp[0].state_dict().items()},
            **{f"linear2.{name}": value for name, value in block.mlp[2].state_dict().items()},
            **{f"norm1.{name}": value for name, value in block.norm.state_dict().items()},
            **{f"norm2.{name}": value for name, value in block.mlp_norm.state_dict().items()},
        }
    )
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x, None, None, attend_all), layer(x), atol=1e-5, rtol=0)


def test_causal_attention_is_that_of_blocks_of_one_position():
    block = plain_block()
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    in_blocks = block(x, None, None, block_causal([1] * 7, x.device))
    torch.testing.assert_close(block(x, None, None, attend_causal), in_blocks, atol=1e-6, rtol=0)
