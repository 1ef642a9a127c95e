"""Conversion of HART's released text-to-image models to pipeline folders (github.com/mit-han-lab/hart)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from openhart.checks import Depth, Flag, Number, Width, parse_values
from openhart.conversion.folder import build, check_destination, save
from openhart.conversion.keys import (
    PLAIN_ATTENTION,
    RESIDUAL_HEAD,
    ROTARY_ATTENTION,
    TRANSFORMER,
)
from openhart.conversion.tokenizer import IGNORED as IGNORED_IN_TOKENIZER
from openhart.conversion.tokenizer import build_tokenizer
from openhart.conversion.weights import Checkpoint, read_folder, read_tensors
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.reading import read_json
from openhart.residual.heads import TokenResidualHead
from openhart.scales import ScaleList
from openhart.transformer.model import HartTransformer

IGNORED = r"attn_bias_for_masking|lvl_1L|blocks\.\d+\.attn\.zero_k_bias"
RESIDUAL_SCALE = 0.6
SAMPLING = {
    "guidance_scale": 5.5,  # the demo's 4.5, in the convention uncond + w · (cond − uncond)
    "top_k": 600,
    "late_top_k": 300,
    "gumbel_smoothing": True,
}


class ReleasedConfig(BaseModel):
    """The entries of ``llm/config.json`` that determine the model; other entries are ignored."""

    depth: Depth
    embed_dim: Width
    num_heads: Depth
    patch_nums: ScaleList
    context_dim: Width
    context_token: Width
    mlp_ratio: Number = 4.0
    norm_eps: Number = 1e-6
    attn_l2_norm: Flag = False
    attn_type: Literal["llama", "gpt2"] = "gpt2"
    mlp_type: Literal["llama", "gpt2"] = "gpt2"
    disable_aln: Flag = False
    shared_aln: Flag = False
    sep_aln_pooling_mode: Literal["avg", "max"] = "max"
    use_timestep_embed: Flag = False
    use_context_norm: Flag = False
    use_cross_attn: Flag = False
    diff_width: Width = 1024
    diff_depth: Depth = 6
    num_sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 8


class ReleasedTokenizerConfig(BaseModel):
    """The entries of ``tokenizer/config.json`` that do not follow from the shapes of the tensors."""

    quant_resi: Annotated[Number, Field(ge=-1, le=1)] = 0.5
    using_znorm: Flag = False


CHOICES = {
    "attn_type": {"llama": "rope", "gpt2": "learned"},
    "mlp_type": {"llama": "swiglu", "gpt2": "gelu"},
    "sep_aln_pooling_mode": {"avg": "mean", "max": "max"},
}


def convert_hart(
    src: Path, dst: Path, weights: str = "ema", text_encoder: str | None = None, instruction: str = ""
) -> None:
    """Convert a released HART model to a pipeline folder. Tensors are memory-mapped, so memory stays small.

    Args:
        src: folder with ``llm/`` and ``tokenizer/``.
        dst: pipeline folder, new or empty.
        weights: ``ema`` for the averaged weights, or ``raw``.
        text_encoder: name, folder or hub id of the text encoder that the pipeline loads; None for no name.
        instruction: text that is put before every prompt. The released weights were trained with one, which
            is contained in HART's program.

    Raises:
        UserError: if a file is missing, damaged or not from a released HART model, or if the destination is
            not empty.
    """
    if weights not in ("ema", "raw"):
        raise UserError(f"weights must be ema or raw, got {weights!r}")
    src, dst = Path(src), Path(dst)
    check_destination(dst)
    config_path = src / "llm" / "config.json"
    config = parse_values(ReleasedConfig, read_json(config_path), str(config_path))
    codes_path = src / "tokenizer" / "config.json"
    codes_config = parse_values(ReleasedTokenizerConfig, read_json(codes_path), str(codes_path))
    if config.use_cross_attn:
        raise UserError(f"{config_path}: use_cross_attn must be false: no released model has cross-attention")
    settings, head_settings = _transformer_settings(config), _head_settings(config)
    tensors = _read_weights(src / "llm", weights)
    tokenizer = build_tokenizer(
        Checkpoint(read_folder(src / "tokenizer"), f"the tokenizer in {src}", IGNORED_IN_TOKENIZER),
        "vae.",
        settings["scales"],
        abs(codes_config.quant_resi),
        codes_config.using_znorm,
        hybrid=True,
        phi_at_last_scale="never",
    )
    transformer, head = _build_generator(tensors, f"the llm in {src}", settings, head_settings)
    save(
        dst,
        HartPipeline,
        image_tokenizer=tokenizer,
        transformer=transformer,
        residual_head=head,
        text_encoder_name=text_encoder,
        max_tokens=settings["context_tokens"],
        instruction=instruction,
        sampling={**SAMPLING, "residual_steps": config.num_sampling_steps},
    )


def _read_weights(folder: Path, weights: str) -> dict[str, Any]:
    if weights == "raw":
        return read_folder(folder)
    if not (folder / "ema_model.bin").is_file():
        raise UserError(f"{folder / 'ema_model.bin'} is missing: choose the raw weights instead")
    return read_tensors(folder / "ema_model.bin")


def _build_generator(
    tensors: dict[str, Any], where: str, settings: dict[str, Any], head_settings: dict[str, Any]
) -> tuple[HartTransformer, TokenResidualHead]:
    checkpoint = Checkpoint(tensors, where, IGNORED)
    settings["codebook_size"] = len(checkpoint["head.weight"])
    settings["code_dim"] = checkpoint["word_embed.weight"].shape[-1]
    rules, given = [*ROTARY_ATTENTION, *TRANSFORMER], {}
    if settings["positions"] == "learned":
        rules = [*PLAIN_ATTENTION, *TRANSFORMER]
        positions = checkpoint.take("pos_1LC")[0].clone()
        start = checkpoint.take("pos_start")[0]
        positions[: len(start)] += start
        given["position_embed"] = positions
    transformer = build(HartTransformer, settings, checkpoint, rules, given)
    head_settings["code_dim"] = settings["code_dim"]
    head = build(TokenResidualHead, head_settings, checkpoint, RESIDUAL_HEAD)
    checkpoint.check_all_used()
    return transformer, head


def _transformer_settings(config: ReleasedConfig) -> dict[str, Any]:
    modulation = "per_block"
    if config.disable_aln:
        modulation = "table" if config.shared_aln else "none"
    pooling = CHOICES["sep_aln_pooling_mode"][config.sep_aln_pooling_mode]
    return {
        "depth": config.depth,
        "width": config.embed_dim,
        "num_heads": config.num_heads,
        "scales": list(config.patch_nums),
        "context_dim": config.context_dim,
        "context_tokens": config.context_token,
        "mlp_ratio": config.mlp_ratio,
        "norm": "rms" if config.attn_type == "llama" else "layer",
        "norm_eps": config.norm_eps,
        "mlp": CHOICES["mlp_type"][config.mlp_type],
        "modulation": modulation,
        "pooling": "mean" if modulation == "table" else pooling,
        "levels": "sinusoidal" if config.use_timestep_embed else "learned",
        "positions": CHOICES["attn_type"][config.attn_type],
        "normalize_attention": config.attn_l2_norm,
        "context_norm": config.use_context_norm,
    }


def _head_settings(config: ReleasedConfig) -> dict[str, Any]:
    return {
        "condition_dim": config.embed_dim,
        "width": config.diff_width,
        "depth": config.diff_depth,
        "residual_scale": RESIDUAL_SCALE,
    }
