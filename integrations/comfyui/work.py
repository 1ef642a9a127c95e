"""What the nodes do, without ComfyUI: models, conditions, images.

Images are ComfyUI's: (B, H, W, 3), float32 in [0, 1], on the CPU.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from openhart import from_pretrained

Show = Callable[[int, int, Image.Image], None]


def load(folder: Path | None, dtype: str, device: torch.device, optimize: str | None) -> Any:
    """Load a pipeline.

    Args:
        folder: the model folder; None for the packaged model.
        dtype: name of the data type.
        device: where it computes.
        optimize: level of :meth:`optimize`, or None.
    """
    pipeline: Any = from_pretrained(folder, dtype=dtype)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    if optimize is not None:
        pipeline.optimize(optimize)
    return pipeline


@torch.no_grad()
def condition(pipeline: Any, prompt: str, negative_prompt: str) -> dict[str, Any]:
    """Arguments of the pipeline's ``stream`` for a prompt, or for a class given as a number.

    Raises:
        ValueError: a class-conditional model gets a text that is no number, or a negative prompt.
    """
    if pipeline.condition_encoder.argument == "class_labels":
        if not prompt.strip().isdecimal() or negative_prompt.strip():
            raise ValueError(
                "this model takes classes: give the number of a class as prompt, and no negative prompt"
            )
        return {"class_labels": int(prompt)}
    context, mask = pipeline.encode_condition(prompt)
    arguments = {"prompt_embeds": context, "prompt_attention_mask": mask}
    if negative_prompt.strip():
        context, mask = pipeline.encode_condition(negative_prompt)
        arguments |= {"negative_prompt_embeds": context, "negative_prompt_attention_mask": mask}
    return arguments


def generate(
    pipeline: Any,
    condition: Mapping[str, Any],
    seed: int,
    count: int,
    size: tuple[int | None, int | None],
    sampling: Mapping[str, Any],
    show: Show,
) -> tuple[Tensor, Tensor]:
    """Generate images scale by scale.

    Args:
        pipeline: the pipeline.
        condition: from :func:`condition`.
        seed: seed of the first image; further images have the following seeds.
        count: number of images.
        size: height and width in pixels; None for the model's own.
        sampling: sampling settings that replace the model's own.
        show: called after each scale with its index, the number of scales and the first image; an exception
            that it raises ends generation.

    Returns:
        the images, and the first image after each scale.
    """
    states = pipeline.stream(
        **condition,
        height=size[0],
        width=size[1],
        num_images_per_prompt=count,
        generator=[torch.Generator().manual_seed(seed + position) for position in range(count)],
        **sampling,
    )
    previews: list[Image.Image] = []
    try:
        for state in states:
            images = pipeline.decode_preview(state)
            previews.append(images[0])
            show(state.index, state.count, images[0])
    finally:
        states.close()
    return to_batch(images), to_batch(previews)


@torch.no_grad()
def reconstruct(pipeline: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode and decode images, scaled and cropped to the size of the model.

    Returns:
        images decoded from the least information that the tokenizer can decode, its codes, and from the most,
        which for a tokenizer without codes are the same.
    """
    tokenizer = pipeline.image_tokenizer
    weight = next(tokenizer.parameters())
    fitted = fit(images.movedim(-1, 1)[:, :3].float(), tokenizer.image_size)
    versions = list(tokenizer.versions((fitted * 2 - 1).to(weight.device, weight.dtype)).values())
    made = [tokenizer.decode(features) for features in (versions[0], versions[-1])]
    first, second = (((each.float().cpu() + 1) / 2).clamp(0, 1).movedim(1, -1) for each in made)
    return first, second


def fit(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale images (B, 3, h, w) until they cover height and width, and crop the middle."""
    height, width = images.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    covering = [max(target, round(side * scale)) for target, side in zip(size, (height, width), strict=True)]
    if covering != [height, width]:
        images = interpolate(images, covering, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = ((side - target) // 2 for side, target in zip(covering, size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]


def to_batch(images: list[Image.Image]) -> Tensor:
    """Images of one size as a batch (B, H, W, 3)."""
    return torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images])).float() / 255
