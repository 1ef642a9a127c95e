"""The images of the Space, scale by scale, without the interface."""

import functools
import os
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image

from openhart import from_pretrained


@functools.cache
def pipeline() -> Any:
    """The model, loaded once: that of the variable ``OPENHART_MODEL``, or the packaged one."""
    loaded: Any = from_pretrained(os.environ.get("OPENHART_MODEL"))
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(prompt: str, seed: float, guidance_scale: float) -> Iterator[tuple[Image.Image, str]]:
    """The image after each scale, and a line that states which one it is.

    Args:
        prompt: the prompt.
        seed: a whole number from 0.
        guidance_scale: guidance of the last scale.

    Raises:
        UserError: a value is invalid.
    """
    states = pipeline().stream(
        prompt.strip(), guidance_scale=guidance_scale, generator=torch.Generator().manual_seed(int(seed))
    )
    try:
        for state in states:
            image = pipeline().decode_preview(state)[0]
            yield image, f"scale {state.index + 1} of {state.count}"
    finally:
        states.close()
