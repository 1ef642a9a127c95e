"""The sections of a recipe that all generators share."""

from typing import Any, Literal

from pydantic import Field

from openhart.checks import Below1, Count, PathText, Positive, Text, Width
from openhart.training.run.settings import Section

ENCODING_SETTINGS = {"text": ("text_encoder", "max_tokens", "instruction"), "label": ()}


class Conditioning(Section):
    """The condition, which takes the position of scale 1: text (by default encoded by the packaged MiniLM),
    or a class label.

    ``drop`` is the probability with which a sample gets the empty condition, for classifier-free guidance.

    ``word_drop`` is the probability with which each filler word of a caption, such as an article, is omitted
    (:func:`openhart.data.words.drop_words`). The captions that result are encoded while training.
    """

    kind: Literal["text", "label"] = "text"
    text_encoder: PathText = "all-MiniLM-L6-v2"
    max_tokens: Width = 24
    instruction: Text = ""
    num_classes: Count | None = None
    drop: Below1 = 0.1
    word_drop: Below1 = 0.0

    def identity(self) -> dict[str, Any]:
        """The settings on which encoded conditions depend."""
        return self.model_dump(include={"kind", *ENCODING_SETTINGS[self.kind]})


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside the transformer's linear maps; everything else is
    frozen.

    ``targets`` are ends of module names, such as ``qkv`` or ``blocks.0.mlp.up``; ``alpha / rank`` scales
    what an adapter adds.
    """

    rank: Width = 16
    alpha: Positive = 16.0
    targets: list[Text] = Field(default=["qkv", "proj", "gate", "up", "down"], min_length=1)
