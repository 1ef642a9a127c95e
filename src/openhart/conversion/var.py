"""Conversion of VAR's released class-conditional models to pipeline folders.

The models are those of github.com/FoundationVision/VAR. They have no configuration file: all sizes follow
from the shapes of the tensors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart.conditioning.label import LabelEncoder
from openhart.conversion.folder import build, check_destination, save
from openhart.conversion.keys import LABEL_ENCODER, PLAIN_ATTENTION, TRANSFORMER
from openhart.conversion.tokenizer import IGNORED as IGNORED_IN_TOKENIZER
from openhart.conversion.tokenizer import build_tokenizer
from openhart.conversion.weights import Checkpoint, read_tensors
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.presets import PUBLISHED_SCALES
from openhart.scales import count_tokens, parse_scales
from openhart.transformer.model import HartTransformer

IGNORED = r"attn_bias_for_masking|lvl_1L|blocks\.\d+\.attn\.zero_k_bias"
HEAD_SIZE = 64
PHI_RATIO = 0.5
SAMPLING = {
    "guidance_scale": 5.0,  # the demo's 4, in the convention uncond + w · (cond − uncond)
    "top_k": 900,
    "top_p": 0.95,
    "hold_last_guidance": False,
}


def convert_var(vae_path: Path, var_path: Path, dst: Path, scales: Sequence[int] | None = None) -> None:
    """Convert a released VAR model to a pipeline folder. Tensors keep their dtype and are memory-mapped.

    Args:
        vae_path: file of the tokenizer, such as ``vae_ch160v4096z32.pth``.
        var_path: file of the transformer, such as ``var_d16.pth``.
        dst: pipeline folder, new or empty.
        scales: sides of the code maps; None to find them among the published ones by the number of tokens.

    Raises:
        UserError: if a file is missing, damaged or not from a released VAR model, if the scales do not fit
            the weights, or if the destination is not empty.
    """
    vae_path, var_path, dst = Path(vae_path), Path(var_path), Path(dst)
    check_destination(dst)
    checkpoint = Checkpoint(read_tensors(var_path), var_path, IGNORED)
    codes = Checkpoint(read_tensors(vae_path), vae_path, IGNORED_IN_TOKENIZER)
    settings = _transformer_settings(checkpoint, scales)
    tokenizer = build_tokenizer(
        codes, "", settings["scales"], PHI_RATIO, False, hybrid=False, phi_at_last_scale="without_residual"
    )
    rules = [*PLAIN_ATTENTION, *TRANSFORMER]
    given = _tensors_without_counterpart(checkpoint, settings["width"])
    transformer = build(HartTransformer, settings, checkpoint, rules, given)
    label_settings = {
        "num_classes": len(checkpoint["class_emb.weight"]) - 1,
        "dim": settings["width"],
    }
    labels = build(LabelEncoder, label_settings, checkpoint, LABEL_ENCODER)
    checkpoint.check_all_used()
    save(
        dst,
        HartPipeline,
        image_tokenizer=tokenizer,
        transformer=transformer,
        label_encoder=labels,
        max_tokens=1,
        sampling=SAMPLING,
    )


def _tensors_without_counterpart(checkpoint: Checkpoint, width: int) -> dict[str, Tensor]:
    """Positional embeddings including those of the start tokens, and an identity norm for a residual head,
    which VAR does not have."""
    positions = checkpoint.take("pos_1LC")[0].float()
    start = checkpoint.take("pos_start")[0].float()
    return {
        "position_embed": torch.cat([positions[: len(start)] + start, positions[len(start) :]]),
        "residual_norm.weight": torch.ones(width),
        "residual_norm.bias": torch.zeros(width),
    }


def _transformer_settings(checkpoint: Checkpoint, scales: Sequence[int] | None) -> dict[str, Any]:
    width, code_dim = checkpoint["word_embed.weight"].shape
    tokens = checkpoint["pos_1LC"].shape[1]
    levels = len(checkpoint["lvl_embed.weight"])
    temperature = "blocks.0.attn.scale_mul_1H11"
    normalized = temperature in checkpoint
    return {
        "depth": checkpoint.count("blocks."),
        "width": width,
        "num_heads": checkpoint[temperature].numel() if normalized else width // HEAD_SIZE,
        "scales": _find_scales(levels, tokens, scales),
        "codebook_size": len(checkpoint["head.weight"]),
        "code_dim": code_dim,
        "context_dim": width,
        "context_tokens": 1,
        "mlp_ratio": len(checkpoint["blocks.0.ffn.fc1.weight"]) / width,
        "norm": "layer",
        "mlp": "gelu",
        "modulation": "shared" if "shared_ada_lin.1.weight" in checkpoint else "per_block",
        "levels": "learned",
        "positions": "learned",
        "normalize_attention": normalized,
        "context_norm": False,
        "context_projection": False,
    }


def _find_scales(levels: int, tokens: int, given: Sequence[int] | None) -> list[int]:
    candidates = list(PUBLISHED_SCALES.values()) if given is None else [tuple(given)]
    for scales in candidates:
        if len(scales) == levels and count_tokens(parse_scales(scales)) == tokens:
            return list(scales)
    if given is None:
        raise UserError(
            f"no published VAR model has {levels} scales with {tokens} tokens in total: give its scales"
        )
    raise UserError(
        f"the weights are for {levels} scales with {tokens} tokens in total, not for {list(given)}"
    )
