"""What ``openhart generate`` makes images of: prompts, class labels, images or codes, or nothing."""

import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openhart.cli.options import UsageError
from openhart.errors import UserError, reason

LONGEST_NAME = 100  # bytes, so that a number and a suffix may follow
EXAMPLE = 'give a prompt, as in: openhart generate "a red apple"'
GIVEN = {"prompts": "a prompt", "label": "--label", "condition": "--condition"}
"""The options that hold conditions, and their names in messages."""
OPTIONS = {"text": "prompts", "label": "label", "codes": "condition"}
"""The option that each kind of model takes; see :attr:`ConditionedPipeline.condition_kind`."""


@dataclass(frozen=True)
class Subject:
    """What one image is made of.

    Attributes:
        argument: the argument of the pipeline's call; None for a model without a condition.
        value: its value for one image.
        size: height and width of the image in pixels; None where the model's own is taken.
    """

    argument: str | None
    value: Any
    size: tuple[int | None, int | None]


def condition_names(options: Namespace) -> list[str]:
    """A name per condition, from which the names of files are made.

    Raises:
        UsageError: if several kinds of conditions are given, or none for the packaged model.
        UserError: if a file of a condition is missing.
    """
    given = [name for option, name in GIVEN.items() if getattr(options, option)]
    if len(given) > 1:
        raise UsageError(f"give {given[0]} or {given[1]}, not both")
    if not given and options.model is None:
        raise UsageError(EXAMPLE)
    if missing := [path for path in options.condition or () if not path.is_file()]:
        raise UserError(f"there is no file {missing[0]}: check the path of --condition")
    if options.label:
        return [f"class-{label}" for label in options.label]
    if options.condition:
        return [_slug(path.stem) for path in options.condition]
    return [_slug(prompt) for prompt in options.prompts] or ["image"]


def read_subjects(pipeline: Any, options: Namespace) -> list[Subject]:
    """A subject per name of :func:`condition_names`.

    Raises:
        UsageError: if the model needs a condition and none is given.
        UserError: if the model takes another kind of condition, or if a file cannot be read.
    """
    _check_kind(pipeline, options)
    size = (options.height, options.width)
    if options.condition:
        return [_read_condition(path, pipeline, size) for path in options.condition]
    if options.label:
        return [Subject("class_labels", label, size) for label in options.label]
    return [Subject("prompt", prompt, size) for prompt in options.prompts] or [Subject(None, None, size)]


def call_arguments(subjects: list[Subject]) -> dict[str, Any]:
    """Arguments of one call that makes an image of each subject; they are of one kind and size."""
    height, width = subjects[0].size
    size = {"height": height, "width": width}
    argument, values = subjects[0].argument, [each.value for each in subjects]
    if argument is None:
        return {"num_images_per_prompt": len(subjects), **size}
    if argument in ("prompt", "class_labels"):
        return {argument: values, **size}
    import torch

    return {argument: torch.stack(values), **size}


def _check_kind(pipeline: Any, options: Namespace) -> None:
    kind = pipeline.condition_kind
    given = next((option for option in GIVEN if getattr(options, option)), None)
    wanted = OPTIONS.get(kind)
    if given == wanted:
        return
    if kind == "none":
        raise UserError(f"this model is unconditional: omit {GIVEN[str(given)]}")
    sentence = {
        "text": "this model takes prompts: give a prompt",
        "label": "this model takes classes: give --label 0 … {}",
        "codes": "this model takes another image or its codes: give --condition FILE",
    }[kind]
    if kind == "label":
        sentence = sentence.format(pipeline.label_encoder.num_classes - 1)
    if given is None:
        raise UsageError(sentence)
    raise UserError(f"{sentence} instead of {GIVEN[given]}")


def _read_condition(path: Path, pipeline: Any, size: tuple[int | None, int | None]) -> Subject:
    """An image or its codes; the size of the result is that of the condition unless one is given."""
    if path.suffix.lower() == ".json":
        codes = _read_codes(path)
        if codes.ndim == 1:
            return Subject("condition_codes", codes, size)
        factor = pipeline.image_tokenizer.downsample_factor
        height, width = (side * factor for side in codes.shape)
        return Subject("condition_codes", codes, (size[0] or height, size[1] or width))
    tokenizer = pipeline.condition_tokenizer or pipeline.image_tokenizer
    image = _read_image(path, tokenizer.config.in_channels)
    return Subject("condition_image", image, (size[0] or image.shape[1], size[1] or image.shape[2]))


def _read_codes(path: Path) -> Any:
    """Codes (h, w) or (T,) of a JSON file."""
    import torch

    from openhart.reading import parse_any_json, read_text

    value = parse_any_json(read_text(path), path)
    rows = value if isinstance(value, list) else []
    inner = [each for row in rows for each in (row if isinstance(row, list) else [row])]
    whole = bool(inner) and all(type(each) is int and abs(each) < 2**31 for each in inner)
    lengths = {len(row) if isinstance(row, list) else None for row in rows}
    if not whole or len(lengths) != 1:
        raise UserError(
            f"{path} must hold the codes of an image: a list of whole numbers, or a list of such rows of "
            "equal length"
        )
    return torch.tensor(rows)


def _read_image(path: Path, channels: int) -> Any:
    """An image (channels, H, W): colours or gray levels in [−1, 1]; with more channels than colours, the
    pixels are numbers of classes, and the channel of a pixel's class is 1."""
    import numpy as np
    import torch
    from PIL import Image

    from openhart.data.decoding import read_image

    if channels == 3:
        levels = np.asarray(read_image(path), np.float32)
        return torch.from_numpy(levels).permute(2, 0, 1) / 127.5 - 1
    try:
        with Image.open(path) as image:
            pixels, mode = np.asarray(image), image.mode
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as an image: {reason(error)}") from error
    if mode not in ("L", "P", "I", "I;16"):
        raise UserError(f"{path} must have one channel per pixel, such as gray levels, got mode {mode}")
    if channels == 1:
        largest = 255 if pixels.dtype == np.uint8 else 65535
        return torch.from_numpy(pixels.astype(np.float32))[None] * (2 / largest) - 1
    if pixels.max() >= channels:
        raise UserError(
            f"the pixels of {path} must be numbers of classes, 0 … {channels - 1}, got {pixels.max()}"
        )
    classes = torch.from_numpy(pixels.astype(np.int64))
    return torch.nn.functional.one_hot(classes, channels).permute(2, 0, 1).float()


def _slug(prompt: str) -> str:
    words = re.sub(r"[\W_]+", "-", prompt[:1000].lower()).strip("-")[:60]
    return words.encode()[:LONGEST_NAME].decode(errors="ignore").strip("-") or "unconditional"
