"""The conditions of a generator's samples: encoded captions, or class labels for a trained encoder."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openhart.conditioning.encoder import ConditionEncoder, EncodedContext
from openhart.conditioning.label import LabelEncoder
from openhart.conditioning.text import (
    DEFAULT_TEXT_ENCODER,
    TextConditionEncoder,
    empty_condition,
    load_text_encoder,
)
from openhart.data.records import CACHE_POSITION, captions_of, label_of
from openhart.data.words import drop_words
from openhart.errors import UserError
from openhart.randomness import stack_random
from openhart.training.config import Conditioning

KEPT_CAPTIONS = 200_000
CAPTIONS_AT_A_TIME = 64
MINILM_WIDTH = 384

Record = dict[str, Any]
EncoderInputs = tuple[Tensor, ...]


class Conditions(Protocol):
    """Draws the condition of each sample, and builds the encoder that is trained with the transformer.

    Attributes:
        device: where frozen encoders run.
    """

    device: torch.device

    def shape(self) -> dict[str, int]:
        """``context_dim`` and ``context_tokens`` of the transformer."""

    def planned_shape(self, stated: Mapping[str, Any]) -> dict[str, int]:
        """The same without loading an encoder.

        Args:
            stated: the recipe's ``model``, which must have the ``context_dim`` of an encoder that is not
                packaged.

        Raises:
            UserError: it has none.
        """

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Hold the encoder of the initial model, which messages call ``name``, against the recipe.

        Raises:
            UserError: they differ.
        """

    def build_encoder(self, dim: int) -> nn.Module:
        """A new encoder of D channels, which turns what :meth:`draw` gives into context and mask."""

    def draw(self, records: Sequence[Record], generators: list[torch.Generator]) -> EncoderInputs:
        """One condition per sample, some replaced by the empty condition: the encoder's inputs."""

    def store(self, number: int, records: Sequence[Record]) -> dict[str, Tensor]:
        """What part ``number`` of a cache on disk keeps of its records' conditions; notes places in them."""

    def from_cache(self, cache: "ConditionCache") -> "Conditions":
        """The same conditions, read from a cache."""

    def components(self, encoder: nn.Module, generates: bool) -> dict[str, Any]:
        """The pipeline's arguments that hold the encoder; the frozen ones only if it ``generates``."""


class ConditionCache(Protocol):
    """A cache on disk that holds encoded captions."""

    context: dict[str, int]

    def condition(self, record: Record, choice: int) -> tuple[Tensor, Tensor]:
        """Context (T, D) and mask (T,) of one of a record's captions."""


def open_conditions(settings: Conditioning, width: int) -> Conditions:
    """The conditions that a recipe describes.

    Args:
        settings: the recipe's ``conditioning``.
        width: the transformer's width C, which is that of a label's context token.

    Raises:
        UserError: class labels without their number of classes.
    """
    return KINDS[settings.kind](settings, width)


class TextConditions:
    """Captions → context tokens; each caption is encoded once and kept in bfloat16.

    Args:
        settings: names the text encoder, its positions T and the instruction read before each caption.
    """

    def __init__(self, settings: Conditioning, _: int = 0) -> None:
        self.settings = settings
        self.device = torch.device("cpu")
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """The text encoder's tokenizer and the encoder, frozen."""
        text_tokenizer, text_encoder = load_text_encoder(self.settings.text_encoder)
        return text_tokenizer, text_encoder.requires_grad_(False)

    def shape(self) -> dict[str, int]:
        """Channels D and positions T of an encoded word, which also shows that T fits the text encoder."""
        context, _ = self._encode(["a"])
        return {"context_dim": context.shape[2], "context_tokens": context.shape[1]}

    def planned_shape(self, stated: Mapping[str, Any]) -> dict[str, int]:
        """Channels D and positions T; the recipe states D of an encoder that is not packaged."""
        name, dim = self.settings.text_encoder, MINILM_WIDTH
        if name != DEFAULT_TEXT_ENCODER:
            if "context_dim" not in stated:
                raise UserError(f"model.context_dim must say how wide the states of {name} are")
            dim = int(stated["context_dim"])
        return {"context_dim": dim, "context_tokens": self.settings.max_tokens}

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Hold a model's encoder against the recipe: it encodes text as as many tokens."""
        _check_kind(encoder, self.settings, name)
        if encoder.tokens != self.settings.max_tokens:
            raise UserError(
                f"initial: {name} takes {encoder.tokens} context tokens, the recipe's "
                f"conditioning.max_tokens is {self.settings.max_tokens}"
            )

    def build_encoder(self, dim: int) -> nn.Module:
        """Nothing is trained: captions were encoded before."""
        return EncodedContext()

    def draw(self, records: Sequence[Record], generators: list[torch.Generator]) -> EncoderInputs:
        """Context (B, T, D) and mask (B, T) of one caption per record."""
        dropped = _draw_dropped(self.settings, generators)
        chosen = []
        for record, generator in zip(records, generators, strict=True):
            chosen.append(int(torch.randint(len(captions_of(record)), (), generator=generator)))
        if self.settings.word_drop:
            share, pairs = self.settings.word_drop, zip(records, chosen, generators, strict=True)
            context, mask = self(
                [drop_words(captions_of(record)[i], share, draw) for record, i, draw in pairs]
            )
        else:
            context, mask = self.of(records, chosen)
        nothing, nothing_mask = empty_condition(*context.shape)
        return (
            torch.where(dropped[:, None, None], nothing, context),
            torch.where(dropped[:, None], nothing_mask, mask),
        )

    def of(self, records: Sequence[Record], choices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One caption of each record → context (B, T, D), mask (B, T)."""
        return self([captions_of(record)[choice] for record, choice in zip(records, choices, strict=True)])

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

    def store(self, number: int, records: Sequence[Record]) -> dict[str, Tensor]:
        """Context and mask of every caption once; each record notes the rows of its own."""
        rows: dict[str, int] = {}
        for record in records:
            places = [rows.setdefault(caption, len(rows)) for caption in captions_of(record)]
            record[CACHE_POSITION] = [number, places]
        captions = list(rows)
        if not captions:
            return {}
        starts = range(0, len(captions), CAPTIONS_AT_A_TIME)
        pairs = [self(captions[start : start + CAPTIONS_AT_A_TIME]) for start in starts]
        context, mask = (torch.cat(column) for column in zip(*pairs, strict=True))
        return {"context": context.to(torch.bfloat16), "mask": mask}

    def from_cache(self, cache: ConditionCache) -> Conditions:
        """The same captions' context, read from a cache."""
        return CachedConditions(self.settings, cache)

    def components(self, encoder: nn.Module, generates: bool) -> dict[str, Any]:
        """The text encoder's name, and the encoder itself for a pipeline that generates."""
        named: dict[str, Any] = {"text_encoder_name": self.settings.text_encoder}
        if generates:
            named["text_tokenizer"], named["text_encoder"] = self.parts
        return named


class CachedConditions(TextConditions):
    """Context tokens from a cache on disk; the text encoder is loaded only for sample images.

    Args:
        settings: as :class:`TextConditions`.
        cache: holds the context of every caption.
    """

    def __init__(self, settings: Conditioning, cache: ConditionCache) -> None:
        super().__init__(settings)
        self.cache = cache

    def shape(self) -> dict[str, int]:
        """Channels and positions, as the cache has them."""
        return self.cache.context

    def of(self, records: Sequence[Record], choices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One caption of each record → context (B, T, D), mask (B, T)."""
        pairs = [self.cache.condition(*pair) for pair in zip(records, choices, strict=True)]
        context, mask = (torch.stack(column) for column in zip(*pairs, strict=True))
        return context.float(), mask


class LabelConditions:
    """Class labels, which an encoder that is trained with the transformer turns into context.

    Args:
        settings: has the number of classes.
        width: the transformer's width C.

    Raises:
        UserError: the number of classes is missing.
    """

    def __init__(self, settings: Conditioning, width: int) -> None:
        if settings.num_classes is None:
            raise UserError("conditioning.num_classes must be given for kind: label")
        self.settings, self.width, self.classes = settings, width, settings.num_classes
        self.device = torch.device("cpu")

    def shape(self) -> dict[str, int]:
        """One token of the transformer's width."""
        return {"context_dim": self.width, "context_tokens": 1}

    def planned_shape(self, stated: Mapping[str, Any]) -> dict[str, int]:
        """One token of the transformer's width."""
        return self.shape()

    def check_encoder(self, encoder: ConditionEncoder, name: str) -> None:
        """Hold a model's encoder against the recipe: it has as many classes."""
        _check_kind(encoder, self.settings, name)
        if isinstance(encoder, LabelEncoder) and encoder.num_classes != self.classes:
            raise UserError(
                f"initial: {name} has {encoder.num_classes} classes, the recipe's "
                f"conditioning.num_classes is {self.classes}"
            )

    def build_encoder(self, dim: int) -> nn.Module:
        """A new label encoder."""
        encoder: nn.Module = LabelEncoder(num_classes=self.classes, dim=dim)  # by name: kept in its config
        return encoder

    def draw(self, records: Sequence[Record], generators: list[torch.Generator]) -> EncoderInputs:
        """Labels (B,)."""
        dropped = _draw_dropped(self.settings, generators)
        labels = torch.tensor([label_of(record, self.classes) for record in records])
        labels[dropped] = self.classes
        return (labels,)

    def store(self, number: int, records: Sequence[Record]) -> dict[str, Tensor]:
        """Nothing, since the records hold the labels; each is checked."""
        for record in records:
            label_of(record)
        return {}

    def from_cache(self, cache: ConditionCache) -> Conditions:
        """These, since the records hold the labels."""
        return self

    def components(self, encoder: nn.Module, generates: bool) -> dict[str, Any]:
        """The label encoder."""
        return {"label_encoder": encoder}


KINDS: dict[str, type[TextConditions] | type[LabelConditions]] = {
    "text": TextConditions, "label": LabelConditions
}  # fmt: skip


def _check_kind(encoder: ConditionEncoder, settings: Conditioning, name: str) -> None:
    if encoder.kind != settings.kind:
        raise UserError(
            f"initial: {name} is conditioned on {encoder.kind}, but the recipe's conditioning.kind is "
            f"{settings.kind}"
        )


def _draw_dropped(settings: Conditioning, generators: list[torch.Generator]) -> Tensor:
    """Which samples get the empty condition, (B,) bool."""
    return stack_random(torch.rand, (1,), generators)[:, 0] < settings.drop
