"""Memory estimates for images and training, compared with the free memory before it is allocated."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from openhart.errors import UserError
from openhart.scales import Scales, count_tokens
from openhart.tokenizer.base import CodeTokenizer
from openhart.tokenizer.kl import KLAutoencoder
from openhart.transformer.masked import MaskedTransformer
from openhart.transformer.model import HartTransformer
from openhart.transformer.raster import RasterTransformer

GIB = 2**30
FLOAT = 4
DECODER_MAPS = 5  # maps of the finest resolution in memory at once; measured at 2048 px (docs/speed.md)
TOKEN_MAPS = 10  # tensors of the transformer's width in memory at once at the last scale
LOGIT_MAPS = 3  # logits, guided logits and probabilities
SLACK = 1.1  # the estimate of a training step may be too high by this factor
TRAINING_COPIES = 5  # weights, gradients, two moments of the optimizer and averaged weights
MAX_IMAGE_SIDE = 2**16
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUP = Path("/sys/fs/cgroup")
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc failed")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None if it is unknown.

    On a CPU, the limits of the system and of the control group (container) are considered.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [value for value in (_free_in_system(), _free_in_group()) if value is not None]
    return min(limits, default=None)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of this process on a device so far, in bytes; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not STATUS.is_file():
        return None
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), None)


def _free_in_system() -> int | None:
    if not MEMINFO.is_file():
        return None
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def _free_in_group() -> int | None:
    """Free bytes of the control group; its inactive page cache counts as free."""
    limit, used, stat = (CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not (limit.is_file() and used.is_file()) or not limit.read_text().strip().isdigit():
        return None
    lines = stat.read_text().splitlines() if stat.is_file() else []
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return int(limit.read_text()) - int(used.read_text()) + cached


@dataclass(frozen=True)
class ImageMemory:
    """Estimate of the memory that generation needs in addition to the weights.

    Attributes:
        transformer: the transformer.
        tokenizer: the image tokenizer, which decodes the images.
        guided: whether classifier-free guidance doubles the transformer's batch.
        tile: side of a decoded tile in positions of the feature map; None if the decoder does not use tiles.
    """

    transformer: HartTransformer | RasterTransformer
    tokenizer: CodeTokenizer
    guided: bool
    tile: int | None = None

    def of(self, images: int, size: tuple[int, int]) -> int:
        """Estimated bytes for a batch of ``images`` images of a height and width in pixels.

        The transformer and the decoder run one after the other, so the larger of their needs counts.
        """
        factor = self.tokenizer.downsample_factor
        scales = self.tokenizer.quantizer.scales_for((size[0] // factor, size[1] // factor))
        return max(
            self._generating(images * (2 if self.guided else 1), scales), self._decoding(images, scales)
        )

    def _generating(self, rows: int, scales: Scales) -> int:
        config, bytes_each = self.transformer.config, self.transformer.dtype.itemsize
        positions = config.context_tokens + count_tokens(scales) - 1
        last = rows * math.prod(scales[-1])
        cache = 2 * config.depth * rows * positions * config.width * bytes_each
        rotations = 4 * rows * positions * config.width // config.num_heads * FLOAT
        tokens = last * config.width * bytes_each * TOKEN_MAPS
        return int(cache + rotations + tokens + last * config.codebook_size * FLOAT * LOGIT_MAPS)

    def _decoding(self, images: int, scales: Scales) -> int:
        config, factor = self.tokenizer.config, self.tokenizer.downsample_factor
        height, width = (min(side, self.tile or side) * factor for side in scales[-1])
        positions = height * width // config.patch_size**2
        return images * _decoder_bytes(self.tokenizer, positions, math.prod(scales[-1]) * factor**2)


@dataclass(frozen=True)
class RasterMemory(ImageMemory):
    """What images take that are generated code by code: a cache of one window, and one code's scores."""

    transformer: RasterTransformer

    def _generating(self, rows: int, scales: Scales) -> int:  # noqa: ARG002
        config, bytes_each = self.transformer.config, self.transformer.dtype.itemsize
        positions = self.transformer.max_positions
        cache = 2 * config.depth * rows * positions * config.width * bytes_each
        tokens = rows * positions * config.width * bytes_each * TOKEN_MAPS
        return int(cache + tokens + rows * config.codebook_size * FLOAT * LOGIT_MAPS)


@dataclass(frozen=True)
class MaskedMemory:
    """As :class:`ImageMemory`, for MAR, which has no cache and no scores of codes."""

    transformer: MaskedTransformer
    tokenizer: KLAutoencoder
    guided: bool

    def of(self, images: int, size: tuple[int, int]) -> int:
        """Estimated bytes for a batch of ``images`` images of a height and width in pixels."""
        rows, config = images * (2 if self.guided else 1), self.transformer.config
        positions = rows * (config.buffer_tokens + self.transformer.num_tokens)
        tokens = int(positions * config.width * self.transformer.dtype.itemsize * TOKEN_MAPS)
        return max(tokens, images * _decoder_bytes(self.tokenizer, math.prod(size), math.prod(size)))


def _decoder_bytes(tokenizer: CodeTokenizer | KLAutoencoder, positions: int, pixels: int) -> int:
    """Bytes of a decoder's maps at positions of the finest resolution, and of three copies of an image."""
    config = tokenizer.config
    channels = config.base_channels * max(config.channel_multipliers[:2])
    maps = positions * channels * tokenizer.dtype.itemsize * DECODER_MAPS
    return int(maps + 3 * pixels * FLOAT * 3)


def check_images(
    memory: ImageMemory | MaskedMemory, images: int, size: tuple[int, int], device: torch.device
) -> None:
    """Check that images fit into the free memory.

    Args:
        memory: the estimate.
        images: number of images generated at a time.
        size: height and width in pixels.
        device: the device of the pipeline.

    Raises:
        UserError: if a side is longer than :data:`MAX_IMAGE_SIDE`, or if the images do not fit into the free
            memory; the message states how many images or which size would fit.
    """
    free = free_memory(device)
    if max(size) > MAX_IMAGE_SIDE:
        raise UserError(f"image sides must be at most {MAX_IMAGE_SIDE} pixels, got {size[0]}×{size[1]}")
    if free is None or (need := memory.of(images, size)) <= free:
        return
    problem = f"{images} image{'s' * (images > 1)} of {size[0]}×{size[1]} pixels need about {_gib(need)}"
    fitting = largest_fitting(lambda count: memory.of(count, size) <= free, images)
    if fitting:
        raise UserError(f"{problem} and {_gib(free)} are free: generate at most {fitting} at a time")
    factor = memory.tokenizer.downsample_factor
    steps = max(size) // factor
    side = largest_fitting(lambda step: memory.of(1, _scaled(size, step, steps, factor)) <= free, steps)
    height, width = _scaled(size, max(side, 1), steps, factor)
    raise UserError(f"{problem} and {_gib(free)} are free: at most {height}×{width} would fit")


def largest_fitting(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to ``limit`` that fits, by bisection; 0 if not even 1 fits.

    Args:
        fits: whether a number fits; if a number fits, all smaller ones must fit too.
        limit: the largest number to consider.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def check_training(parameters: int, device: torch.device) -> None:
    """Check that weights, gradients and optimizer states fit into the free memory, in float32.

    Args:
        parameters: number of parameters trained on this device.
        device: the device.

    Raises:
        UserError: if they do not fit into the free memory.
    """
    need, free = parameters * TRAINING_COPIES * FLOAT, free_memory(device)
    if free is not None and need > free:
        raise UserError(
            f"the recipe's model has {parameters:,} parameters: training them needs {_gib(need)} and "
            f"{_gib(free)} are free: lower its width or depth"
        )


def check_step(activations: int, device: torch.device) -> None:
    """Check that the activations of a training step fit into the free memory, up to :data:`SLACK`.

    Args:
        activations: bytes that the forward pass stores for the backward pass.
        device: the device.

    Raises:
        UserError: if the activations do not fit into the free memory.
    """
    free = free_memory(device)
    if free is not None and activations > SLACK * free:
        raise UserError(
            f"a step stores about {_gib(activations)} of activations and {_gib(free)} are free: lower "
            "data.batch_size and raise run.accumulation"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error was raised because memory ran out."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    message = str(error).lower()
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(phrase in message for phrase in OUT_OF_MEMORY)
    )


def _scaled(size: tuple[int, int], step: int, steps: int, factor: int) -> tuple[int, int]:
    """A size of the same aspect ratio whose longer side has ``step`` of ``steps`` positions of features."""
    height, width = (max(1, round(side // factor * step / steps)) * factor for side in size)
    return height, width


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size < 1000 * GIB else f"{size / GIB:,.0f} GiB"
