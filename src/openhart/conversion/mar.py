"""MAR's released models → pipeline folders (layout: github.com/LTH14/mar).

They come without a configuration. All of it but the number of attention heads is read off the tensors.
"""

import math
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart.conditioning.label import LabelEncoder
from openhart.conversion.folder import build, check_destination, save
from openhart.conversion.keys import MASKED_TRANSFORMER, RESIDUAL_HEAD, tokenizer_rules
from openhart.conversion.tokenizer import autoencoder_settings
from openhart.conversion.weights import Checkpoint, check_tensors, read_content, with_joined_qkv
from openhart.errors import UserError
from openhart.pipelines.mar import MarPipeline
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.kl import KLAutoencoder
from openhart.transformer.masked import MaskedTransformer

IGNORED_IN_TOKENIZER = r"loss\..*"
NOTHING = r"(?!)"
HEADS = {768: 12, 1024: 16, 1280: 16}
"""Attention heads of MAR-B, MAR-L and MAR-H by width."""
GUIDANCE = {768: 2.9, 1024: 3.0, 1280: 3.2}
"""Guidance scales with which MAR-B, MAR-L and MAR-H are evaluated, by width."""
WEIGHTS = {"ema": "model_ema", "raw": "model"}


def convert_mar(
    kl_path: Path, mar_path: Path, dst: Path, weights: str = "ema", num_heads: int | None = None
) -> None:
    """Write a released MAR as a pipeline folder. Tensors keep their dtype and stay mapped.

    A file without ``model_ema``, as conversions by others are, is read as it is, with a warning: it may hold
    the raw weights, with which images are worse.

    Args:
        kl_path: the autoencoder, ``kl16.ckpt``, or safetensors with its tensors.
        mar_path: the transformer and diffusion head, ``checkpoint-last.pth``, or safetensors.
        dst: pipeline folder, new or empty.
        weights: ``ema``, the averaged weights, or ``raw``.
        num_heads: attention heads; None for those of the released model of this width.

    Raises:
        UserError: if a file is missing, damaged or no released MAR, if the heads do not fit, or if the
            destination is in use.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights must be ema or raw, got {weights!r}")
    kl_path, mar_path, dst = Path(kl_path), Path(mar_path), Path(dst)
    check_destination(dst)
    tokenizer = _build_tokenizer(kl_path)
    checkpoint = Checkpoint(_read_weights(mar_path, weights), mar_path, NOTHING)
    settings = _transformer_settings(checkpoint, tokenizer.config.latent_channels, num_heads)
    biases = _attention_biases(checkpoint)
    transformer = build(MaskedTransformer, settings, checkpoint, MASKED_TRANSFORMER, biases)
    head = build(TokenResidualHead, _head_settings(checkpoint), checkpoint, RESIDUAL_HEAD)
    labels = _build_labels(checkpoint)
    checkpoint.check_all_used()
    save(
        dst,
        MarPipeline,
        image_tokenizer=tokenizer,
        transformer=transformer,
        diffusion_head=head,
        label_encoder=labels,
        max_tokens=1,
        sampling={"guidance_scale": GUIDANCE.get(settings["width"], 3.0)},
    )


def _read_weights(path: Path, weights: str) -> dict[str, Tensor]:
    """The averaged or the raw tensors of a training checkpoint, or those of a file that has one set."""
    content = read_content(path, [Namespace])
    if not isinstance(content, Mapping) or not any(name in content for name in WEIGHTS.values()):
        tensors = check_tensors(content, path)
        if weights == "ema":
            warnings.warn(
                f"{path} has no model_ema: it may hold the raw weights, with which images are worse "
                "than with the averaged ones of checkpoint-last.pth",
                stacklevel=3,
            )
        return tensors
    name = WEIGHTS[weights]
    if name not in content:
        other = next(kind for kind in WEIGHTS if kind != weights)
        raise UserError(f"{path} has no {name}: ask for the {other} weights instead")
    return check_tensors(content[name], f"{name} in {path}")


def _build_tokenizer(path: Path) -> KLAutoencoder:
    content = read_content(path, [Namespace])
    if isinstance(content, Mapping) and "model" in content:
        content = content["model"]
    checkpoint = Checkpoint(with_joined_qkv(check_tensors(content, path)), path, IGNORED_IN_TOKENIZER)
    autoencoder = autoencoder_settings(checkpoint, "")
    levels = len(autoencoder["channel_multipliers"])
    decoder_attention = f"decoder.up.{levels - 1}.attn.0.norm.weight" in checkpoint
    config = {
        **autoencoder,
        "latent_channels": len(checkpoint["post_quant_conv.weight"]),
        "decoder_attention": decoder_attention,
    }
    rules = tokenizer_rules(levels, "", "", decoder_attention)
    tokenizer: KLAutoencoder = build(KLAutoencoder, config, checkpoint, rules)
    checkpoint.check_all_used()
    return tokenizer


def _transformer_settings(
    checkpoint: Checkpoint, latent_channels: int, num_heads: int | None
) -> dict[str, Any]:
    width, channels = checkpoint["z_proj.weight"].shape
    tokens, positions = (
        checkpoint[f"{name}_pos_embed_learned"].shape[1] for name in ("diffusion", "encoder")
    )
    patch, side = math.isqrt(channels // latent_channels), math.isqrt(tokens)
    if patch**2 * latent_channels != channels:
        raise UserError(
            f"{checkpoint.where} has tokens of {channels} channels, which are no square patches of the "
            f"autoencoder's {latent_channels} channels"
        )
    if side**2 != tokens:
        raise UserError(f"{checkpoint.where} has {tokens} tokens, which are no square")
    if num_heads is None and width not in HEADS:
        raise UserError(f"no released MAR has the width {width}: name its number of attention heads")
    return {
        "encoder_depth": checkpoint.count("encoder_blocks."),
        "decoder_depth": checkpoint.count("decoder_blocks."),
        "width": width,
        "num_heads": num_heads or HEADS[width],
        "size": [side * patch, side * patch],
        "latent_channels": latent_channels,
        "patch_size": patch,
        "buffer_tokens": positions - tokens,
        "context_dim": width,
        "mlp_ratio": len(checkpoint["encoder_blocks.0.mlp.fc1.weight"]) / width,
    }


def _attention_biases(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Biases of queries and values by our names; those of the keys have no effect (``build_vit_block``)."""
    biases: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        for index in range(checkpoint.count(f"{side}_blocks.")):
            q_bias, _, v_bias = checkpoint.take(f"{side}_blocks.{index}.attn.qkv.bias").chunk(3)
            name = f"{side}_blocks.{index}.attention"
            biases |= {f"{name}.q_bias": q_bias.clone(), f"{name}.v_bias": v_bias.clone()}
    return biases


def _head_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    width, channels = checkpoint["diffloss.net.input_proj.weight"].shape
    return {
        "code_dim": channels,
        "condition_dim": checkpoint["diffloss.net.cond_embed.weight"].shape[1],
        "width": width,
        "depth": checkpoint.count("diffloss.net.res_blocks."),
        "residual_scale": 1.0,
        "clamp": False,
    }


def _build_labels(checkpoint: Checkpoint) -> LabelEncoder:
    classes = checkpoint.take("class_emb.weight")
    rows = torch.cat([classes, checkpoint.take("fake_latent").to(classes.dtype)])
    settings = {"num_classes": len(classes), "dim": classes.shape[1]}
    labels: LabelEncoder = build(LabelEncoder, settings, checkpoint, (), {"embedding.weight": rows})
    return labels
