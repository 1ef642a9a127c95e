"""The sections of a recipe that all generators share."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from openhart.checks import Below1, Count, Number, PathText, Positive, Text, Width
from openhart.training.run.settings import Section

ENCODING_SETTINGS = {"text": ("text_encoder", "max_tokens", "instruction"), "label": (), "none": ()}


class Conditioning(Section):
    """The condition: text (by default encoded by the packaged MiniLM), a class label, or ``none``, which is
    the same for all images.

    ``drop`` is the probability with which a sample gets the empty condition, for classifier-free guidance.

    ``word_drop`` is the probability with which each filler word of a caption, such as an article, is omitted
    (:func:`openhart.data.words.drop_words`). The captions that result are encoded while training.
    """

    kind: Literal["text", "label", "none"] = "text"
    text_encoder: PathText = "all-MiniLM-L6-v2"
    max_tokens: Width = 24
    instruction: Text = ""
    num_classes: Count | None = None
    drop: Below1 = 0.1
    word_drop: Below1 = 0.0

    @property
    def classes(self) -> int | None:
        """Number of classes, if that is known; images without a condition are of one class."""
        return 1 if self.kind == "none" else self.num_classes

    def identity(self) -> dict[str, Any]:
        """The settings on which encoded conditions depend."""
        return self.model_dump(include={"kind", *ENCODING_SETTINGS[self.kind]})


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside the transformer's linear maps; everything else is
    frozen.

    ``targets`` are ends of module names, such as ``qkv`` or ``blocks.0.mlp.up``, or null for all linear maps
    of attention and MLPs; ``alpha / rank`` scales what an adapter adds.
    """

    rank: Width = 16
    alpha: Positive = 16.0
    targets: Annotated[list[Text], Field(min_length=1)] | None = None


class TruncatedNormal(Section):
    """A fraction between ``min`` and 1, drawn from a truncated normal distribution.

    Attributes:
        mean: of the distribution before it is truncated.
        std: its standard deviation.
        min: the smallest fraction.
    """

    mean: Number = 1.0
    std: Annotated[Number, Field(ge=0.01, le=10)] = 0.25
    min: Below1

    @model_validator(mode="after")
    def _some_of_the_normal_lies_inside(self) -> "TruncatedNormal":
        reach = 4 * self.std
        if not self.min - reach <= self.mean <= 1 + reach:
            raise ValueError(
                f"mean {self.mean} is more than 4 deviations outside of the range {self.min} to 1"
            )
        return self

    def draw(self, generator: torch.Generator) -> float:
        """One fraction."""
        found = torch.empty(())
        return float(torch.nn.init.trunc_normal_(found, self.mean, self.std, self.min, 1.0, generator))

    @property
    def average(self) -> float:
        """The expected value of :meth:`draw`."""
        low, high = ((edge - self.mean) / self.std for edge in (self.min, 1.0))
        bell = [math.exp(-edge * edge / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
        area = [(1 + math.erf(edge / math.sqrt(2))) / 2 for edge in (low, high)]
        return self.mean + self.std * (bell[0] - bell[1]) / (area[1] - area[0])
