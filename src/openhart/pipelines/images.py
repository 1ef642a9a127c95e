"""The part of a pipeline that decodes features into images."""

from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from openhart.errors import UserError
from openhart.generation.raster import RasterState
from openhart.generation.states import ScaleState
from openhart.tokenizer.base import CodeTokenizer
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
    """Decodes features, whole or in tiles."""

    image_tokenizer: CodeTokenizer
    _tile: tuple[int, int] | None = None

    def decode_preview(self, state: ScaleState | RasterState) -> list[Any]:
        """Decode the features accumulated so far into PIL images."""
        return cast(list[Any], self._finish(state.f_hat, "pil"))

    def check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels, the model's own where they are None.

        Raises:
            UserError: they are not whole numbers of pixels.
        """
        own = self.image_tokenizer.image_size
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

    @torch.no_grad()
    def _finish(self, features: Tensor, output_type: str) -> Any:
        """Features (B, z, P, P) as one of :data:`OUTPUT_TYPES`."""
        if output_type == "latent":
            return features
        if self._tile is None:
            decoded = self.image_tokenizer.decode(features)
        else:
            decoded = decode_in_tiles(self.image_tokenizer, features, *self._tile)
        return as_output(decoded, output_type)
