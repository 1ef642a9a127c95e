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

KEPT_CAPTIONS = 200_000
CAPTIONS_AT_A_TIME = 64
MINILM_WIDTH = 384


class TextConditions:
    """Captions → context tokens; each caption is encoded once and kept in memory in bfloat16.

    Args:
        settings: the recipe's ``conditioning``: text encoder, number of tokens T, instruction.
    """

    def __init__(self, settings: Conditioning) -> None:
        self.settings = settings
        self.device = torch.device("cpu")
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """The text encoder's tokenizer and the encoder, frozen."""
        text_tokenizer, text_encoder = load_text_encoder(self.settings.text_encoder)
        return text_tokenizer, text_encoder.requires_grad_(False)

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

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """B captions → context (B, T, D), mask (B, T)."""
        new = sorted(set(captions) - self.known.keys())
        if new:
            if len(self.known) > KEPT_CAPTIONS:
                self.known.clear()
                new = sorted(set(captions))
            context, mask = self._encode(new)
            rows = zip(context.to(torch.bfloat16).cpu(), mask.cpu(), strict=True)
            self.known |= dict(zip(new, rows, strict=True))
        contexts, masks = zip(*(self.known[caption] for caption in captions), strict=True)
        return torch.stack(contexts).float(), torch.stack(masks)

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
