"""A pipeline as the service sees it: sizes, settings, limits and batches, whatever the family."""

import dataclasses
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from PIL import Image

from openhart import __version__
from openhart.arithmetic import fastest_dtype
from openhart.errors import UserError
from openhart.generation.settings import MANY, declarations
from openhart.memory import free_memory, largest_fitting, peak_memory
from openhart.provenance import Record
from openhart.randomness import seeded_generators
from openhart.serving.request import ImageRequest

QUALITIES: dict[str, dict[str, Any]] = {
    "low": {"use_residual": False, "unguided_scales": 1},
    "medium": {"unguided_scales": 1},
}
"""Sampling settings of the lower qualities; the higher ones are the model's own settings."""


class ServedModel:
    """What the engine and the protocol need of a pipeline that has ``stream`` and ``decode_preview``.

    Args:
        pipeline: the pipeline, on its device.
        name: name of the model in the protocol.
        hash: checksum of its files (:func:`openhart.provenance.model_hash`).
        max_pixels: pixels per image that are generated; None for as many as the model's own size has.
        computation: how it is computed (dtype, level of optimization), for the record of each image.

    Raises:
        UserError: the model is conditioned on codes, which the protocol does not have.
    """

    def __init__(
        self,
        pipeline: Any,
        name: str = "openhart",
        hash: str = "",  # noqa: A002
        max_pixels: int | None = None,
        computation: Mapping[str, str] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.name = name
        self.hash = hash
        self.size: tuple[int, int] = pipeline.check_size(None, None)
        self.max_pixels = max_pixels or math.prod(self.size)
        self.computation = dict(computation or {})
        if (kind := pipeline.condition_kind) == "codes":
            raise UserError("a model that is conditioned on codes of another image cannot be served")
        self.takes_classes = kind == "label"
        self.takes_prompts = kind == "text"
        self._takes_negative = "negative_prompt" in inspect.signature(pipeline.stream).parameters
        self.sampling_names = tuple(declarations(type(pipeline.sampling_settings())))
        self._preview_dtype = fastest_dtype(pipeline.device)
        pipeline.set_progress_bar_config(disable=True)

    def description(self) -> dict[str, Any]:
        """What a client can show of the model, as JSON: size, scales, classes and sampling settings.

        ``scales`` is null for tokenizers without scales, ``classes`` for models of texts, and
        a limit of a setting where there is none.
        """
        own = self.pipeline.sampling_settings()
        scales = getattr(self.pipeline.image_tokenizer, "scales_for_image", None)
        classes = self.pipeline.condition_encoder.num_classes if self.takes_classes else None
        return {
            "size": f"{self.size[1]}x{self.size[0]}",
            "scales": None if scales is None else len(scales(self.size)),
            "classes": classes,
            "has_residual": "use_residual" in self.sampling_names and self.pipeline.residual_head is not None,
            "settings": [
                {
                    "name": name,
                    "help": declared.help,
                    "default": getattr(own, name),
                    "least": declared.least,
                    "most": None if declared.most == MANY else declared.most,
                    "choices": declared.choices,
                }
                for name, declared in declarations(type(own)).items()
            ],
        }

    def peak_memory(self) -> int | None:
        """Peak memory of the process on the model's device, in bytes; None if it is unknown."""
        return peak_memory(self.pipeline.device)

    def settings(self, quality: str, given: Mapping[str, Any]) -> Any:
        """Complete sampling settings from a quality and the settings that a request gives.

        Raises:
            UserError: a value is outside its range.
        """
        lower = {n: v for n, v in QUALITIES.get(quality, {}).items() if n in self.sampling_names}
        return self.pipeline.sampling_settings(**{**lower, **given})

    def check(self, size: tuple[int, int], settings: Any, prompt: str, negative_prompt: str | None) -> None:
        """Check that an image of this size, prompt and settings can be made, before it waits in the queue.

        Raises:
            UserError: it cannot.
        """
        height, width = size
        if height * width > self.max_pixels:
            raise UserError(
                f"size must have at most {self.max_pixels} pixels, such as {self.size[1]}x{self.size[0]}"
            )
        self.pipeline.check_size(height, width)
        scales = getattr(self.pipeline.image_tokenizer, "scales_for_image", lambda _: None)(size)
        if check := getattr(self.pipeline.transformer, "check_scales", None):
            check(scales)
        free = free_memory(self.pipeline.device)
        if free is not None and self.pipeline.memory(settings).of(1, size) > free:
            raise UserError("size must be smaller: such an image does not fit into the free memory")
        if self.takes_classes:
            self._class_of(prompt)
        if negative_prompt and not (self.takes_prompts and self._takes_negative):
            raise UserError("negative_prompt must be omitted: this model takes none")

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size nearest to a requested one that the model generates: its aspect ratio, within the pixels.

        Raises:
            UserError: the model makes images of its own size only, and its aspect ratio differs.
        """
        shrink = min(1.0, math.sqrt(self.max_pixels / math.prod(size)))
        factor = int(self.pipeline.image_tokenizer.downsample_factor)
        height, width = (max(1, int(side * shrink / factor)) * factor for side in size)
        try:
            self.check((height, width), self.pipeline.sampling_settings(), "0", None)
        except UserError:
            if size[0] * self.size[1] == size[1] * self.size[0]:
                return self.size
            raise
        return height, width

    def tokens(self, prompt: str) -> tuple[int, int | None]:
        """Tokens of a prompt, and the number to which it is cut, or None if it is not cut."""
        if not self.takes_prompts or self.pipeline.text_tokenizer is None:
            return 1, None
        count = self.pipeline.condition_encoder.count(prompt)
        most = int(self.pipeline.transformer.config.context_tokens)
        return min(count, most), most if count > most else None

    def codes_per_image(self, size: tuple[int, int]) -> int:
        """Codes, or tokens, that are drawn for an image."""
        scales = getattr(self.pipeline.image_tokenizer, "scales_for_image", None)
        if scales is not None:
            return sum(height * width for height, width in scales(size))
        return int(self.pipeline.transformer.num_tokens)

    def start(self, requests: list[ImageRequest], seeds: list[int]) -> Iterator[Any]:
        """Begin a batch of one image per request, all of the same key."""
        first = requests[0]
        if self.takes_classes:
            condition: dict[str, Any] = {"class_labels": [self._class_of(each.prompt) for each in requests]}
        elif self.takes_prompts:
            condition = {"prompt": [each.prompt for each in requests]}
            if first.negative_prompt:
                condition["negative_prompt"] = first.negative_prompt
        else:
            condition = {"num_images_per_prompt": len(requests)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cut prompt is stated in a header
            states: Iterator[Any] = self.pipeline.stream(
                **condition,
                height=first.size[0],
                width=first.size[1],
                sampling=first.sampling,
                generator=seeded_generators(seeds),
            )
        return states

    def decode(self, state: Any, rows: list[int]) -> list[Image.Image]:
        """Decode the images of some rows of a state."""
        part = dataclasses.replace(state, features=state.features[rows])
        images: list[Image.Image] = self.pipeline.decode_preview(part)
        return images

    def decode_previews(self, state: Any, rows: list[int]) -> list[Image.Image]:
        """As :meth:`decode`, in bfloat16 where the device computes it faster than float32."""
        lower = self._preview_dtype != torch.float32 and self.pipeline.dtype == torch.float32
        with torch.autocast(self.pipeline.device.type, self._preview_dtype, enabled=lower):
            return self.decode(state, rows)

    def batch_limit(self, request: ImageRequest, most: int) -> int:
        """Number of such images that fit into memory together, from 1 to ``most``."""
        free = free_memory(self.pipeline.device)
        if free is None:
            return most
        memory = self.pipeline.memory(request.sampling)
        return max(1, largest_fitting(lambda count: memory.of(count, request.size) <= free, most))

    def record(self, request: ImageRequest, position: int) -> Record:
        """Everything that determines one image of a request."""
        return Record(
            prompt=request.prompt if self.takes_prompts else None,
            label=self._class_of(request.prompt) if self.takes_classes else None,
            negative_prompt=request.negative_prompt,
            seed=request.seed_of(position),
            height=request.size[0],
            width=request.size[1],
            sampling=dataclasses.asdict(request.sampling),
            model=self.name,
            model_hash=self.hash,
            computation=self.computation,
            version=__version__,
        )

    def _class_of(self, prompt: str) -> int:
        classes = int(self.pipeline.condition_encoder.num_classes)
        if not prompt.strip().isascii() or not prompt.strip().isdigit() or not int(prompt[:9]) < classes:
            raise UserError(
                f"prompt must be the number of a class, 0 … {classes - 1}: this model takes classes"
            )
        return int(prompt[:9])
