"""The part of a pipeline that decodes features into images."""

from collections.abc import Generator
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from openhart.errors import UserError
from openhart.generation.states import State
from openhart.pipelines.callbacks import Callbacks
from openhart.tokenizer.base import CodeTokenizer, ImageTokenizer
from openhart.tokenizer.tiling import decode_in_tiles

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_output_type(output_type: Any) -> None:
    """Refuse an unknown form of output.

    Raises:
        UserError: if it is none of :data:`OUTPUT_TYPES`.
    """
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")


def as_output(decoded: Tensor, output_type: str) -> Any:
    """Decoded images (B, 3, H, W) in [−1, 1] as ``pil``, ``np`` or ``pt``.

    Raises:
        UserError: if they are not finite.
    """
    images = VaeImageProcessor.denormalize(decoded.float())
    if not images.isfinite().all():
        raise UserError(
            f"the image is not finite: the model's weights are damaged, or too large for {decoded.dtype}"
        )
    if output_type == "pt":
        return images
    arrays = VaeImageProcessor.pt_to_numpy(images)
    return arrays if output_type == "np" else DiffusionPipeline.numpy_to_pil(arrays)


class DecodingPipeline(DiffusionPipeline):
    """Turns the states of generation into images."""

    image_tokenizer: ImageTokenizer

    @torch.no_grad()
    def decode_preview(self, state: State) -> list[Any]:
        """Decode the features of a state into PIL images; what has not been generated yet counts as zeros.

        The images of the last state are those of the call.
        """
        return cast(list[Any], self._output(state.features, "pil"))

    def _finish(
        self, states: Generator[State, None, None], total: int, callbacks: Callbacks, output_type: str
    ) -> Any:
        """Take all of ``total`` states, with progress bar and callbacks; the images of the last one."""
        with self.progress_bar(total=total) as bar:
            for state in states:
                bar.update()
                if not callbacks.call(self, state):
                    states.close()
        images = self._output(state.features, output_type)
        self.maybe_free_model_hooks()
        return images

    def _output(self, features: Tensor, output_type: str) -> Any:
        """Features (B, z, h, w) as one of :data:`OUTPUT_TYPES`."""
        return features if output_type == "latent" else as_output(self._decode(features), output_type)

    def _decode(self, features: Tensor) -> Tensor:
        """Features (B, z, h, w) → images in [−1, 1]."""
        return self.image_tokenizer.decode(features)


class TilingPipeline(DecodingPipeline):
    """A pipeline of images of several sizes, which it can decode in tiles."""

    image_tokenizer: CodeTokenizer
    _tile: tuple[int, int] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images for which the model is configured."""
        return self.image_tokenizer.image_size

    def check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels, the model's own where they are None.

        Raises:
            UserError: they are not whole numbers of pixels.
        """
        own = self.image_size
        size = (own[0] if height is None else height, own[1] if width is None else width)
        if any(type(side) is not int or side < 1 for side in size):
            raise UserError(f"height and width must be whole numbers of pixels, got {height!r} and {width!r}")
        return size

    def enable_tiling(self, tile: int = 1024, overlap: int = 128) -> None:
        """Decode images larger than a tile in parts, so that memory does not grow with the image.

        Args:
            tile: side of a tile in pixels.
            overlap: pixels that neighbouring tiles share, where they are blended.

        Raises:
            UserError: the tile is not larger than the overlap, or smaller than one patch of the model.
        """
        factor = self.image_tokenizer.downsample_factor
        if type(tile) is not int or type(overlap) is not int:
            raise UserError(f"tile and overlap must be whole numbers of pixels, got {tile!r} and {overlap!r}")
        if not factor <= tile or not 0 <= overlap < tile:
            raise UserError(
                f"a tile must be at least {factor} pixels and larger than its overlap, "
                f"got {tile} and {overlap}"
            )
        self._tile = tile // factor, overlap // factor

    def disable_tiling(self) -> None:
        """Decode every image whole again."""
        self._tile = None

    def _decode(self, features: Tensor) -> Tensor:
        if self._tile is None:
            return super()._decode(features)
        return decode_in_tiles(self.image_tokenizer, features, *self._tile)
