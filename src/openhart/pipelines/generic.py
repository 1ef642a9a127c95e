"""The pipeline as diffusers' generic loader constructs it.

``DiffusionPipeline.from_pretrained(FOLDER)`` looks for a pipeline's class in diffusers itself, where
:func:`register` puts it when :mod:`openhart.pipelines` is imported. Without that import, the ``pipeline.py``
in a model's folder names the class: ``custom_pipeline="pipeline", trust_remote_code=True``.
"""

import functools
from typing import Any

import diffusers

from openhart.conditioning.text import load_text_encoder
from openhart.pipelines import hart


class HartPipeline(hart.HartPipeline):
    """As :class:`openhart.HartPipeline`; a text encoder that the model only names is loaded as well."""

    @functools.wraps(hart.HartPipeline.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("text_encoder_name") and kwargs.get("text_encoder") is None:
            tokenizer, encoder = load_text_encoder(kwargs["text_encoder_name"])
            encoder.to(kwargs["transformer"].dtype)
            kwargs |= {"text_encoder": encoder, "text_tokenizer": tokenizer}
        super().__init__(*args, **kwargs)


def register() -> None:
    """Let diffusers' generic loader find the class (tried with diffusers 0.38 to 0.42)."""
    diffusers.HartPipeline = HartPipeline
