"""Rules that map the names of our tensors to their names in released checkpoints."""

import re
from collections.abc import Collection, Sequence

Rules = Sequence[tuple[str, str]]

TRANSFORMER: Rules = (
    (r"context_rms\.", r"context_norm."),
    (r"level_embed\.weight", r"lvl_embed.weight"),
    (r"level_embed\.first\.", r"lvl_embed.mlp.0."),
    (r"level_embed\.second\.", r"lvl_embed.mlp.2."),
    (r"blocks\.(\d+)\.norm\.", r"blocks.\1.ln_wo_grad."),
    (r"blocks\.(\d+)\.attention\.log_temperature", r"blocks.\1.attn.scale_mul_1H11"),
    (r"blocks\.(\d+)\.attention\.", r"blocks.\1.attn."),
    (r"blocks\.(\d+)\.mlp\.(gate|up|down)\.", r"blocks.\1.ffn.\2_proj."),
    (r"blocks\.(\d+)\.mlp\.0\.", r"blocks.\1.ffn.fc1."),
    (r"blocks\.(\d+)\.mlp\.2\.", r"blocks.\1.ffn.fc2."),
    (r"modulations\.(\d+)\.table", r"blocks.\1.scale_shift_table"),
    (r"modulations\.(\d+)\.linear\.", r"blocks.\1.ada_lin.1."),
    (r"modulations\.(\d+)\.offset", r"blocks.\1.ada_gss"),
    (r"shared_modulation\.linear\.", r"shared_ada_lin.1."),
    (r"head_norm\.", r"head_nm.ln_wo_grad."),
    (r"head_modulation\.linear\.", r"head_nm.ada_lin.1."),
    (r"residual_norm\.", r"decoder_norm."),
)
ROTARY_ATTENTION: Rules = ((r"blocks\.(\d+)\.attention\.qkv\.", r"blocks.\1.attn.qkv_proj."),)
PLAIN_ATTENTION: Rules = ((r"blocks\.(\d+)\.attention\.qkv\.", r"blocks.\1.attn.mat_qkv."),)

RESIDUAL_HEAD: Rules = (
    (r"input\.", r"diffloss.net.input_proj."),
    (r"time\.first\.", r"diffloss.net.time_embed.mlp.0."),
    (r"time\.second\.", r"diffloss.net.time_embed.mlp.2."),
    (r"condition\.", r"diffloss.net.cond_embed."),
    (r"blocks\.(\d+)\.norm\.", r"diffloss.net.res_blocks.\1.in_ln."),
    (r"blocks\.(\d+)\.first\.", r"diffloss.net.res_blocks.\1.mlp.0."),
    (r"blocks\.(\d+)\.second\.", r"diffloss.net.res_blocks.\1.mlp.2."),
    (r"blocks\.(\d+)\.modulation\.", r"diffloss.net.res_blocks.\1.adaLN_modulation.1."),
    (r"final_modulation\.", r"diffloss.net.final_layer.adaLN_modulation.1."),
    (r"output\.", r"diffloss.net.final_layer.linear."),
)

MASKED_TRANSFORMER: Rules = (
    (r"token_embed\.", r"z_proj."),
    (r"token_norm\.", r"z_proj_ln."),
    (r"(encoder|decoder)_positions", r"\1_pos_embed_learned"),
    (r"output_positions", r"diffusion_pos_embed_learned"),
    (r"(\w+_blocks\.\d+)\.norm\.", r"\1.norm1."),
    (r"(\w+_blocks\.\d+)\.mlp_norm\.", r"\1.norm2."),
    (r"(\w+_blocks\.\d+)\.attention\.", r"\1.attn."),
    (r"(\w+_blocks\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"(\w+_blocks\.\d+)\.mlp\.2\.", r"\1.mlp.fc2."),
)
"""MAR's encoder and decoder."""

LABEL_ENCODER: Rules = ((r"embedding\.weight", r"class_emb.weight"),)


RASTER_TRANSFORMER: Rules = (
    (r"code_embed\.", r"transformer.tok_emb."),
    (r"blocks\.(\d+)\.norm\.", r"transformer.blocks.\1.ln1."),
    (r"blocks\.(\d+)\.mlp_norm\.", r"transformer.blocks.\1.ln2."),
    (r"blocks\.(\d+)\.attention\.proj\.", r"transformer.blocks.\1.attn.proj."),
    (r"blocks\.(\d+)\.mlp\.", r"transformer.blocks.\1.mlp."),
    (r"norm\.", r"transformer.ln_f."),
    (r"head\.", r"transformer.head."),
)
"""VQGAN's transformer, without the joint maps of its attention."""


def tokenizer_rules(
    levels: int,
    phis: str,
    prefix: str,
    decoder_attention: bool = True,
    attention_levels: Collection[int] | None = None,
) -> Rules:
    """Rules for an image tokenizer.

    Args:
        levels: number of resolutions of encoder and decoder.
        phis: released name of the φ convolutions, with ``\\1`` for the index.
        prefix: prefix of every released name.
        decoder_attention: whether the levels that attend do so in the decoder too.
        attention_levels: levels that attend, counted from 0 at the finest; None for the coarsest.
    """
    attending = {levels - 1} if attention_levels is None else set(attention_levels)
    rules = [
        (r"(.*)\.skip\.", r"\1.nin_shortcut."),
        (r"(.*)\.proj\.", r"\1.proj_out."),
        (r"(encoder|decoder)\.middle\.0\.", r"\1.mid.block_1."),
        (r"(encoder|decoder)\.middle\.1\.", r"\1.mid.attn_1."),
        (r"(encoder|decoder)\.middle\.2\.", r"\1.mid.block_2."),
        (r"quantizer\.codebook\.", r"quantize.embedding."),
        (r"quantizer\.phis\.(\d+)\.", f"quantize.{phis}."),
    ]
    for step in range(levels):
        level = levels - 1 - step
        rules += _level_rules("encoder", step, f"encoder.down.{step}", step in attending)
        rules += _level_rules(
            "decoder", step, f"decoder.up.{level}", decoder_attention and level in attending
        )
    return [*rules, ("", prefix)]


def _level_rules(side: str, step: int, name: str, attention: bool) -> list[tuple[str, str]]:
    blocks = rf"{side}\.levels\.{2 * step}"
    resize = "downsample" if side == "encoder" else "upsample"
    rules = [(rf"{side}\.levels\.{2 * step + 1}\.", f"{name}.{resize}.")]
    if not attention:
        return [*rules, (rf"{blocks}\.(\d+)\.", rf"{name}.block.\1.")]
    for index in range(8):
        kind = "attn" if index % 2 else "block"
        rules.append((rf"{blocks}\.{index}\.", f"{name}.{kind}.{index // 2}."))
    return rules


def rename(name: str, rules: Rules) -> str:
    """The released name of one of our tensors: every rule in turn replaces the beginning that it matches."""
    for pattern, replacement in rules:
        name = re.sub(f"^(?:{pattern})", replacement, name)
    return name
