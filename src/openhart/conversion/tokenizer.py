"""Conversion of the released image tokenizers of HART and VAR, which have the same layout."""

from collections.abc import Sequence
from typing import Any

from openhart.conversion.folder import build
from openhart.conversion.keys import tokenizer_rules
from openhart.conversion.weights import Checkpoint
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.quantizer import PhiRule

IGNORED = r"disc\..*|(vae\.)?quantize\.ema_vocab_hit_SV"


def build_tokenizer(
    checkpoint: Checkpoint,
    prefix: str,
    scales: Sequence[int],
    phi_ratio: float,
    normalize_codes: bool,
    hybrid: bool,
    phi_at_last_scale: PhiRule,
) -> HybridTokenizer:
    """Build the image tokenizer of a checkpoint; its sizes follow from the shapes of the tensors.

    Args:
        checkpoint: the released tensors.
        prefix: prefix of every name.
        scales: sides of the code maps.
        phi_ratio: weight r of the convolution in φ, if the checkpoint has such convolutions.
        normalize_codes: choose the nearest code by cosine similarity.
        hybrid: whether a residual may complete the last scale.
        phi_at_last_scale: the rule of the published program; see :class:`HybridTokenizer`.

    Raises:
        UserError: if tensors are missing, unknown or of another shape.
    """
    phis, phi_count = _find_phis(checkpoint, prefix)
    autoencoder = autoencoder_settings(checkpoint, prefix)
    levels = len(autoencoder["channel_multipliers"])
    codes, code_dim = checkpoint[f"{prefix}quantize.embedding.weight"].shape
    config = {
        **autoencoder,
        "code_dim": code_dim,
        "codebook_size": codes,
        "scales": list(scales),
        "phi_count": phi_count,
        "phi_ratio": phi_ratio if phi_count else 0.0,
        "normalize_codes": normalize_codes,
        "quant_kernel": checkpoint[f"{prefix}quant_conv.weight"].shape[-1],
        "hybrid": hybrid,
        "phi_at_last_scale": phi_at_last_scale,
    }
    tokenizer: HybridTokenizer = build(
        HybridTokenizer, config, checkpoint, tokenizer_rules(levels, phis, prefix)
    )
    checkpoint.check_all_used()
    return tokenizer


def autoencoder_settings(checkpoint: Checkpoint, prefix: str) -> dict[str, Any]:
    """Settings of the encoder and decoder in a checkpoint, read off the tensors.

    Args:
        checkpoint: the released tensors.
        prefix: what comes before every name.

    Raises:
        UserError: a tensor is missing.
    """
    base, channels = checkpoint[f"{prefix}encoder.conv_in.weight"].shape[:2]
    levels = range(checkpoint.count(f"{prefix}encoder.down."))
    widths = [len(checkpoint[f"{prefix}encoder.down.{level}.block.0.conv1.weight"]) for level in levels]
    return {
        "in_channels": channels,
        "base_channels": base,
        "channel_multipliers": [width // base for width in widths],
        "encoder_blocks": checkpoint.count(f"{prefix}encoder.down.0.block."),
        "decoder_blocks": checkpoint.count(f"{prefix}decoder.up.0.block."),
    }


def _find_phis(checkpoint: Checkpoint, prefix: str) -> tuple[str, int]:
    """Released name of the φ convolutions and their number: one, several shared ones, or one per scale."""
    if f"{prefix}quantize.quant_resi.qresi.weight" in checkpoint:
        return "quant_resi.qresi", 1
    if shared := checkpoint.count(f"{prefix}quantize.quant_resi.qresi_ls."):
        return r"quant_resi.qresi_ls.\1", shared
    return r"quant_resi.\1", checkpoint.count(f"{prefix}quantize.quant_resi.")
