"""Conditions from captions: each is encoded once, by a frozen text encoder or into a cache."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from openhart.conditioning.encoder import ConditionEncoder, EncodedContext
from openhart.conditioning.text import (
    DEFAULT_TEXT_ENCODER,
    TextConditionEncoder,
    empty_condition,
    load_text_encoder,
)
from openhart.data.sample import Sample, check_samples
from openhart.data.words import drop_words
from openhart.errors import UserError
from openhart.training.encoding.conditions import (
    ConditionCache,
    Conditions,
    EncoderInputs,
    check_kind,
    draw_dropped,
)
from openhart.training.generator.settings import Conditioning

KEPT_BYTES = 4 * 2**30
CAPTIONS_AT_A_TIME = 64
CAPTIONS_IN_ADVANCE = 1024
MINILM_WIDTH = 384


class CaptionTable:
    """Contexts in bfloat16 and masks of captions, in memory.

    Args:
        most: number of captions for which there is room.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: dict[str, int] = {}
        self.context = torch.empty(0, 0, 0, dtype=torch.bfloat16)
        self.mask = torch.empty(0, 0, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.rows)

    def missing(self, captions: Iterable[str]) -> list[str]:
        """The captions without a row, sorted, each once."""
        return sorted(set(captions) - self.rows.keys())

    def add(self, captions: Sequence[str], context: Tensor, mask: Tensor) -> None:
        """Add captions, their contexts (n, T, D) and masks (n, T); a full table gets twice the size."""
        first, wanted = len(self.rows), len(self.rows) + len(captions)
        if wanted > len(self.context):
            size = max(wanted, min(2 * first, self.most))
            self.context = _enlarged(self.context[:first], size, context)
            self.mask = _enlarged(self.mask[:first], size, mask)
        self.context[first:wanted] = context.cpu()
        self.mask[first:wanted] = mask.cpu()
        self.rows |= {caption: first + index for index, caption in enumerate(captions)}

    def of(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Contexts (B, T, D) in float32 and masks (B, T) of captions that have a row."""
        rows = torch.tensor([self.rows[caption] for caption in captions])
        return self.context[rows].float(), self.mask[rows]


def _enlarged(table: Tensor, size: int, like: Tensor) -> Tensor:
    """A table of ``size`` rows that begins with those of ``table``; the others are not set."""
    larger = table.new_empty(size, *like.shape[1:])
    if len(table):
        larger[: len(table)] = table
    return larger


class TextConditions:
    """Captions → context tokens; each caption is encoded once and kept in memory in bfloat16, within 4 GiB.

    Args:
        settings: the recipe's ``conditioning``: text encoder, number of tokens T, instruction.
    """

    def __init__(self, settings: Conditioning) -> None:
        self.settings = settings
        self.device = torch.device("cpu")
        self.known: CaptionTable | None = None

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """The text encoder's tokenizer and the encoder, frozen."""
        text_tokenizer, text_encoder = load_text_encoder(self.settings.text_encoder)
        return text_tokenizer, text_encoder.requires_grad_(False)

    @property
    def table(self) -> CaptionTable:
        """The captions that have been encoded, as many as :data:`KEPT_BYTES` hold."""
        if self.known is None:
            bytes_each = 2 * self.settings.max_tokens * self.parts[1].config.hidden_size
            self.known = CaptionTable(max(KEPT_BYTES // bytes_each, 1))
        return self.known

    def shape(self) -> dict[str, int]:
        """Channels D and tokens T, from encoding one word, which also checks that T fits the text encoder."""
        context, _ = self._encode(["a"])
        return {"context_dim": context.shape[2], "context_tokens": context.shape[1]}

    def planned_shape(self, stated: Mapping[str, Any]) -> dict[str, int]:
        """Channels D and tokens T; the recipe states the D of an encoder that is not packaged."""
        name, dim = self.settings.text_encoder, MINILM_WIDTH
        if name != DEFAULT_TEXT_ENCODER:
            if "context_dim" not in stated:
                raise UserError(f"model.context_dim must be given: the width of the hidden states of {name}")
            dim = int(stated["context_dim"])
        return {"context_dim": dim, "context_tokens": self.settings.max_tokens}

    def check(self, samples: Iterable[Sample]) -> None:
        """Check the captions of each sample."""
        check_samples(samples, "text", None)

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Check that a model's encoder takes text and has the recipe's number of tokens."""
        check_kind(encoder, self.settings, name)
        if encoder.tokens != self.settings.max_tokens:
            raise UserError(
                f"initial: {name} takes {encoder.tokens} context tokens, the recipe's "
                f"conditioning.max_tokens is {self.settings.max_tokens}"
            )

    def build_encoder(self, dim: int) -> nn.Module:
        """An encoder without weights: captions are encoded before."""
        return EncodedContext()

    def draw(self, samples: Sequence[Sample], generators: list[torch.Generator]) -> EncoderInputs:
        """Context (B, T, D) and mask (B, T) of one caption per sample, drawn at random."""
        dropped = draw_dropped(self.settings, generators)
        chosen = []
        for sample, generator in zip(samples, generators, strict=True):
            chosen.append(int(torch.randint(len(sample.captions), (), generator=generator)))
        if self.settings.word_drop:
            share, pairs = self.settings.word_drop, zip(samples, chosen, generators, strict=True)
            context, mask = self([drop_words(sample.captions[i], share, draw) for sample, i, draw in pairs])
        else:
            context, mask = self.of(samples, chosen)
        nothing, nothing_mask = empty_condition(*context.shape)
        return (
            torch.where(dropped[:, None, None], nothing, context),
            torch.where(dropped[:, None], nothing_mask, mask),
        )

    def of(self, samples: Sequence[Sample], choices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One caption of each sample → context (B, T, D), mask (B, T)."""
        return self([sample.captions[choice] for sample, choice in zip(samples, choices, strict=True)])

    def remember(self, samples: Iterable[Sample]) -> None:
        """Encode the captions of all samples in advance, as many as are kept."""
        captions = dict.fromkeys(caption for sample in samples for caption in sample.captions)
        wanted = list(captions)[: self.table.most]
        for start in range(0, len(wanted), CAPTIONS_IN_ADVANCE):
            self._learn(wanted[start : start + CAPTIONS_IN_ADVANCE])

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """B captions → context (B, T, D), mask (B, T)."""
        self._learn(captions)
        return self.table.of(captions)

    def _learn(self, captions: Sequence[str]) -> None:
        """Encode the captions that are not in the table; a full table is emptied first."""
        new = self.table.missing(captions)
        if new and len(self.table) + len(new) > self.table.most:
            self.known = None
            new = self.table.missing(captions)
        if new:
            self.table.add(new, *self._encode(new))

    def _encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        (text_tokenizer, text_encoder), settings = self.parts, self.settings
        encoder = TextConditionEncoder(
            text_tokenizer,
            text_encoder.to(self.device),
            settings.max_tokens,
            text_encoder.config.hidden_size,
            settings.instruction,
        )
        return encoder.encode(captions)

    def store(self, number: int, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], list[Sample]]:
        """Context and mask of every distinct caption, and the samples with the rows of their captions."""
        rows: dict[str, int] = {}
        stored = []
        for sample in samples:
            places = tuple(rows.setdefault(caption, len(rows)) for caption in sample.captions)
            stored.append(replace(sample, cache_rows=(number, places)))
        captions = list(rows)
        if not captions:
            return {}, stored
        starts = range(0, len(captions), CAPTIONS_AT_A_TIME)
        pairs = [self(captions[start : start + CAPTIONS_AT_A_TIME]) for start in starts]
        context, mask = (torch.cat(column) for column in zip(*pairs, strict=True))
        return {"context": context.to(torch.bfloat16), "mask": mask}, stored

    def from_cache(self, cache: ConditionCache) -> Conditions:
        """The same contexts, read from a cache."""
        return CachedConditions(self.settings, cache)

    def components(self, encoder: nn.Module, generates: bool) -> dict[str, Any]:
        """The text encoder's name, and the encoder itself for a pipeline that generates."""
        named: dict[str, Any] = {"text_encoder_name": self.settings.text_encoder}
        if generates:
            named["text_tokenizer"], named["text_encoder"] = self.parts
        return named


class CachedConditions(TextConditions):
    """Contexts from a cache on disk; the text encoder is loaded for sample images only.

    Args:
        settings: see :class:`TextConditions`.
        cache: holds the context of every caption.
    """

    def __init__(self, settings: Conditioning, cache: ConditionCache) -> None:
        super().__init__(settings)
        self.cache = cache

    def shape(self) -> dict[str, int]:
        """Channels and tokens, from the cache."""
        return self.cache.context

    def of(self, samples: Sequence[Sample], choices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One caption of each sample → context (B, T, D), mask (B, T)."""
        pairs = [self.cache.condition(*pair) for pair in zip(samples, choices, strict=True)]
        context, mask = (torch.stack(column) for column in zip(*pairs, strict=True))
        return context.float(), mask
