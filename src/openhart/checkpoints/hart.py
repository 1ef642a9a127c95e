"""HART's released text-to-image models → pipeline folders (layout: github.com/mit-han-lab/hart)."""

from pathlib import Path
from typing import Any

from openhart.checkpoints.files import Checkpoint, read_folder, read_json, read_tensors
from openhart.checkpoints.folder import build, check_destination, save
from openhart.checkpoints.keys import (
    PLAIN_ATTENTION,
    RESIDUAL_HEAD,
    ROTARY_ATTENTION,
    TRANSFORMER,
)
from openhart.checkpoints.tokenizer import IGNORED as IGNORED_IN_TOKENIZER
from openhart.checkpoints.tokenizer import build_tokenizer
from openhart.errors import UserError
from openhart.residual.heads import TokenResidualHead
from openhart.transformer.model import HartTransformer

IGNORED = r"attn_bias_for_masking|lvl_1L|blocks\.\d+\.attn\.zero_k_bias"
RESIDUAL_SCALE = 0.6
SAMPLING = {"guidance_scale": 4.5, "top_k": 600, "late_top_k": 300, "smooth": True}
DEFAULTS: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "norm_eps": 1e-6,
    "attn_l2_norm": False,
    "attn_type": "gpt2",
    "mlp_type": "gpt2",
    "disable_aln": False,
    "shared_aln": False,
    "sep_aln_pooling_mode": "max",
    "use_timestep_embed": False,
    "use_context_norm": False,
    "use_cross_attn": False,
    "diff_width": 1024,
    "diff_depth": 6,
    "num_sampling_steps": "8",
}
CHOICES = {
    "attn_type": {"llama": "rope", "gpt2": "learned"},
    "mlp_type": {"llama": "swiglu", "gpt2": "gelu"},
    "sep_aln_pooling_mode": {"avg": "mean", "max": "max"},
}


def convert_hart(src: Path, dst: Path, weights: str = "ema", text_encoder: str | None = None) -> None:
    """Write a released HART as a pipeline folder. Tensors are mapped, so memory stays small.

    Args:
        src: folder with ``llm/`` and ``tokenizer/``.
        dst: pipeline folder, new or empty.
        weights: ``ema``, the averaged weights, or ``raw``.
        text_encoder: name, folder or hub id of the text encoder that the pipeline is to load.

    Raises:
        UserError: files that are missing, damaged or no released HART; a destination in use.
    """
    if weights not in ("ema", "raw"):
        raise UserError(f"weights must be ema or raw, got {weights!r}")
    src, dst = Path(src), Path(dst)
    check_destination(dst)
    config_path = src / "llm" / "config.json"
    config = {**DEFAULTS, **read_json(config_path)}
    codes_config = read_json(src / "tokenizer" / "config.json")
    if config["use_cross_attn"]:
        raise UserError(f"{config_path} asks for cross-attention, which no released model has")
    try:
        settings = _transformer_settings(config)
        head_settings = _head_settings(config)
        steps = int(config["num_sampling_steps"])
        phi_ratio = abs(float(codes_config.get("quant_resi", 0.5)))
    except KeyError as error:
        raise UserError(f"{config_path} lacks {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{config_path} has a value of the wrong kind: {error}") from error
    tensors = _read_weights(src / "llm", weights)
    tokenizer = build_tokenizer(
        Checkpoint(read_folder(src / "tokenizer"), f"the tokenizer in {src}", IGNORED_IN_TOKENIZER),
        "vae.",
        settings["scales"],
        phi_ratio,
        bool(codes_config.get("using_znorm", False)),
        hybrid=True,
    )
    transformer, head = _build_generator(tensors, f"the llm in {src}", settings, head_settings)
    save(
        dst,
        image_tokenizer=tokenizer,
        transformer=transformer,
        residual_head=head,
        text_encoder_name=text_encoder,
        max_tokens=settings["context_tokens"],
        sampling={**SAMPLING, "residual_steps": steps},
    )


def _read_weights(folder: Path, weights: str) -> dict[str, Any]:
    if weights == "raw":
        return read_folder(folder)
    if not (folder / "ema_model.bin").is_file():
        raise UserError(f"{folder / 'ema_model.bin'} is missing: ask for the raw weights instead")
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
    checkpoint.check_all_placed()
    return transformer, head


def _transformer_settings(config: dict[str, Any]) -> dict[str, Any]:
    chosen = {}
    for name, choices in CHOICES.items():
        if config[name] not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, got {config[name]!r}")
        chosen[name] = choices[config[name]]
    modulation = "per_block"
    if config["disable_aln"]:
        modulation = "table" if config["shared_aln"] else "none"
    return {
        "depth": config["depth"],
        "width": config["embed_dim"],
        "num_heads": config["num_heads"],
        "scales": list(config["patch_nums"]),
        "context_dim": config["context_dim"],
        "context_tokens": config["context_token"],
        "mlp_ratio": config["mlp_ratio"],
        "norm": "rms" if config["attn_type"] == "llama" else "layer",
        "norm_eps": config["norm_eps"],
        "mlp": chosen["mlp_type"],
        "modulation": modulation,
        "pooling": "mean" if modulation == "table" else chosen["sep_aln_pooling_mode"],
        "levels": "sinusoidal" if config["use_timestep_embed"] else "learned",
        "positions": chosen["attn_type"],
        "normalize_attention": config["attn_l2_norm"],
        "context_norm": config["use_context_norm"],
    }


def _head_settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "condition_dim": config["embed_dim"],
        "width": config["diff_width"],
        "depth": config["diff_depth"],
        "residual_scale": RESIDUAL_SCALE,
    }
