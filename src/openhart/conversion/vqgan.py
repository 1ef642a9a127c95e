"""VQGAN's released models → folders of ours (layout: github.com/CompVis/taming-transformers).

A release is a folder with one YAML configuration and one checkpoint. Of the configuration only what the
tensors do not show is used: the image size, the number of attention heads, the start token and the kind of
condition.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openhart.checks import parse_values
from openhart.checksums import write_checksums
from openhart.conditioning.label import LabelEncoder
from openhart.conversion.folder import appearing_whole, build, check_destination, save
from openhart.conversion.keys import RASTER_TRANSFORMER, tokenizer_rules
from openhart.conversion.tokenizer import autoencoder_settings
from openhart.conversion.vqgan_files import (
    FIRST_STAGE,
    TOKENIZER_CLASSES,
    TRANSFORMER_CLASS,
    GptConfig,
    LabelConfig,
    Release,
    StartConfig,
    Target,
    TokenizerConfig,
    TransformerConfig,
    read_release,
)
from openhart.conversion.weights import Checkpoint
from openhart.errors import UserError
from openhart.pipelines.vqgan import VqganPipeline
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.transformer.raster import RasterTransformer

RASTER_ORDER = ("Identity",)


def convert_vqgan(src: Path, dst: Path) -> None:
    """Write a released VQGAN: a transformer with its tokenizer as a pipeline folder, a tokenizer alone as a
    model folder for :meth:`VqganTokenizer.from_pretrained`.

    Args:
        src: folder of the release, with one configuration (``.yaml``) and one checkpoint (``.ckpt`` or
            ``.safetensors``) in it or in its folders.
        dst: folder, new or empty.

    Raises:
        UserError: if files are missing, damaged or no released VQGAN, or if the destination is not empty.
    """
    src, dst = Path(src), Path(dst)
    check_destination(dst)
    release = read_release(src)
    if release.model.name == TRANSFORMER_CLASS:
        save(dst, VqganPipeline, **_build_parts(release))
        return
    tokenizer = build_vqgan_tokenizer(release.checkpoint, "", release.model, release.config_path)
    release.checkpoint.check_all_used()
    with appearing_whole(dst) as partial:
        tokenizer.save_pretrained(partial)
        write_checksums(partial)


def build_vqgan_tokenizer(checkpoint: Checkpoint, prefix: str, config: Target, where: Path) -> VqganTokenizer:
    """The image tokenizer in a checkpoint; its shape is read off the tensors.

    Args:
        checkpoint: the released tensors, ``q``, ``k`` and ``v`` joined.
        prefix: what comes before every name.
        config: its configuration, for the size of the images.
        where: what messages call the place of the configuration.

    Raises:
        UserError: if tensors are missing, unknown or of another shape.
    """
    resolution = parse_values(TokenizerConfig, config.params, f"{where}: {config.name}").ddconfig.resolution
    settings = autoencoder_settings(checkpoint, prefix)
    levels = len(settings["channel_multipliers"])
    attending = [i for i in range(levels) if f"{prefix}encoder.down.{i}.attn.0.norm.weight" in checkpoint]
    gumbel = f"{prefix}quantize.proj.weight" in checkpoint
    table = f"{prefix}quantize.{'embed' if gumbel else 'embedding'}.weight"
    factor = 2 ** (levels - 1)
    if resolution % factor:
        raise UserError(f"{where}: resolution must be a multiple of {factor}, got {resolution}")
    settings |= {
        "attention_levels": attending,
        "middle_attention": f"{prefix}encoder.mid.attn_1.norm.weight" in checkpoint,
        "feature_channels": checkpoint[f"{prefix}decoder.conv_in.weight"].shape[1],
        "code_dim": checkpoint[table].shape[1],
        "codebook_size": len(checkpoint[table]),
        "scales": [resolution // factor],
        "quantizer_kind": "gumbel" if gumbel else "nearest",
    }
    rules = [*tokenizer_rules(levels, "", prefix, attention_levels=attending)]
    if gumbel:
        rules.append((rf"{re.escape(prefix)}quantize\.embedding\.", f"{prefix}quantize.embed."))
        rules.append((rf"{re.escape(prefix)}quantizer\.projection\.", f"{prefix}quantize.proj."))
    tokenizer: VqganTokenizer = build(VqganTokenizer, settings, checkpoint, rules)
    return tokenizer


def _build_parts(release: Release) -> dict[str, Any]:
    """Arguments of :class:`VqganPipeline`."""
    where = release.config_path
    config = parse_values(TransformerConfig, release.model.params, f"{where}: {release.model.name}")
    gpt = parse_values(GptConfig, config.transformer_config.params, f"{where}: transformer_config")
    if gpt.n_unmasked:
        raise UserError(f"{where}: n_unmasked must be 0, got {gpt.n_unmasked}")
    if config.permuter_config is not None and config.permuter_config.name not in RASTER_ORDER:
        raise UserError(f"{where} orders codes by {config.permuter_config.target}; only raster order is read")
    checkpoint = release.checkpoint
    tokenizer = build_vqgan_tokenizer(checkpoint, "first_stage_model.", config.first_stage_config, where)
    parts = _build_condition(checkpoint, config, where)
    codes = tokenizer.quantizer.size[0] * tokenizer.quantizer.size[1]
    tokens = 1 if "label_encoder" in parts else checkpoint["transformer.pos_emb"].shape[1] - codes
    parts["transformer"] = _build_transformer(checkpoint, tokenizer, gpt.n_head, tokens)
    checkpoint.check_all_used()
    return {"image_tokenizer": tokenizer, **parts}


def _build_condition(checkpoint: Checkpoint, config: TransformerConfig, where: Path) -> dict[str, Any]:
    """The part that encodes the condition: labels, the start token, or a second tokenizer; or none."""
    condition = config.cond_stage_config
    rows = checkpoint["transformer.tok_emb.weight"]
    if condition == FIRST_STAGE:
        return {}  # the image tokenizer encodes the condition too
    if condition == "__is_unconditional__" or config.unconditional:
        return {"label_encoder": _build_labels(rows[config.sos_token : config.sos_token + 1])}
    if isinstance(condition, str):
        raise UserError(f"{where} has the condition {condition}, which no released model has")
    if condition.name == "SOSProvider":
        start = parse_values(StartConfig, condition.params, f"{where}: {condition.name}").sos_token
        return {"label_encoder": _build_labels(rows[start : start + 1])}
    if condition.name == "Labelator":
        classes = parse_values(LabelConfig, condition.params, f"{where}: {condition.name}").n_classes
        return {"label_encoder": _build_labels(rows[:classes])}
    if condition.name in TOKENIZER_CLASSES:
        encoder = build_vqgan_tokenizer(checkpoint, "cond_stage_model.", condition, where)
        return {"condition_tokenizer": encoder}
    return {}


def _build_labels(rows: Tensor) -> LabelEncoder:
    """The first rows of the codes' table, which the released transformers use as classes."""
    encoder: LabelEncoder = LabelEncoder(num_classes=len(rows), dim=rows.shape[1], empty_class=False)
    encoder.load_state_dict({"embedding.weight": rows})
    return encoder


def _build_transformer(
    checkpoint: Checkpoint, tokenizer: VqganTokenizer, num_heads: int, context_tokens: int
) -> RasterTransformer:
    codes, width = checkpoint["transformer.tok_emb.weight"].shape
    height, columns = tokenizer.quantizer.size
    settings: dict[str, Any] = {
        "depth": checkpoint.count("transformer.blocks."),
        "width": width,
        "num_heads": num_heads,
        "scales": [[height, columns]],
        "codebook_size": codes,
        "context_dim": width,
        "context_tokens": max(context_tokens, 1),
        "context_projection": False,
        "mlp_ratio": len(checkpoint["transformer.blocks.0.mlp.0.weight"]) / width,
    }
    positions = checkpoint.take("transformer.pos_emb")[0]
    needed = settings["context_tokens"] + height * columns - 1
    if len(positions) < needed:
        raise UserError(
            f"{checkpoint.where} has {len(positions)} positions, but its map of {height}×{columns} codes and "
            f"its condition of {settings['context_tokens']} need {needed}"
        )
    given = {"position_embed": positions[:needed].clone()}
    for index in range(settings["depth"]):
        given |= _attention(checkpoint, index)
    transformer: RasterTransformer = build(RasterTransformer, settings, checkpoint, RASTER_TRANSFORMER, given)
    return transformer


def _attention(checkpoint: Checkpoint, index: int) -> dict[str, Tensor]:
    """The joint maps of a block's attention by our names; biases of the keys have no effect."""
    names = [f"transformer.blocks.{index}.attn.{part}" for part in ("query", "key", "value")]
    weights = [checkpoint.take(f"{name}.weight") for name in names]
    q_bias, _, v_bias = (checkpoint.take(f"{name}.bias") for name in names)
    ours = f"blocks.{index}.attention"
    return {f"{ours}.qkv.weight": torch.cat(weights), f"{ours}.q_bias": q_bias, f"{ours}.v_bias": v_bias}
