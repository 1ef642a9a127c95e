"""The pipeline as diffusers' generic loader constructs it.

``DiffusionPipeline.from_pretrained(FOLDER)`` looks for a pipeline's class in diffusers itself, where
:func:`register` puts it when :mod:`openhart.pipelines` is imported. Without that import, the ``pipeline.py``
in a model's folder names the class: ``custom_pipeline="pipeline", trust_remote_code=True``.
"""

import functools
from typing import Any

import diffusers

from openhart.conditioning.text import load_text_encoder
from openhart.pipelines import hart, mar, vqgan


class HartPipeline(hart.HartPipeline):
    """As :class:`openhart.HartPipeline`; a text encoder that the model only names is loaded as well."""

    @functools.wraps(hart.HartPipeline.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **_with_text_encoder(kwargs))


class MarPipeline(mar.MarPipeline):
    """As :class:`openhart.MarPipeline`; a text encoder that the model only names is loaded as well."""

    @functools.wraps(mar.MarPipeline.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **_with_text_encoder(kwargs))


class VqganPipeline(vqgan.VqganPipeline):
    """As :class:`openhart.VqganPipeline`; a text encoder that the model only names is loaded as well."""

    @functools.wraps(vqgan.VqganPipeline.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **_with_text_encoder(kwargs))


def _with_text_encoder(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline, with the text encoder that they only name."""
    if not arguments.get("text_encoder_name") or arguments.get("text_encoder") is not None:
        return arguments
    tokenizer, encoder = load_text_encoder(arguments["text_encoder_name"])
    encoder.to(arguments["transformer"].dtype)
    return arguments | {"text_encoder": encoder, "text_tokenizer": tokenizer}


def register() -> None:
    """Let diffusers' generic loader find the classes (tried with diffusers 0.38 to 0.42)."""
    diffusers.HartPipeline = HartPipeline
    diffusers.MarPipeline = MarPipeline
    diffusers.VqganPipeline = VqganPipeline
