"""Memory asked for before it is taken: what a picture or a training run needs, and what is free."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from openhart.errors import UserError
from openhart.scales import Scales, count_tokens
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer

GIB = 2**30
FLOAT = 4
DECODER_MAPS = 5  # of the finest resolution, alive at once; measured at 2048 px (docs/speed.md)
TOKEN_MAPS = 10  # of the transformer's width, alive at once at the last scale
LOGIT_MAPS = 3  # scores, guided scores and their shares
SLACK = 1.1  # by which the estimate of a step may be too high
TRAINING_COPIES = 5  # weights, gradients, two moments and averages
MAX_IMAGE_SIDE = 2**16
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc failed")


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where nobody tells."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = [value for value in (_free_in_system(), _free_in_group()) if value is not None]
    return min(found, default=None)


def _free_in_system() -> int | None:
    if not MEMINFO.is_file():
        return None
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def _free_in_group() -> int | None:
    """What a container leaves, its page cache counted as free."""
    limit, used, stat = (CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not (limit.is_file() and used.is_file()) or not limit.read_text().strip().isdigit():
        return None
    lines = stat.read_text().splitlines() if stat.is_file() else []
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return int(limit.read_text()) - int(used.read_text()) + cached


@dataclass(frozen=True)
class ImageMemory:
    """What pictures take beside the weights.

    Attributes:
        transformer: makes their codes.
        tokenizer: makes pictures of them.
        guided: whether the empty condition runs beside the other.
        tile: side of the largest part that is decoded at once, in places of the feature map; None for all.
    """

    transformer: HartTransformer
    tokenizer: HybridTokenizer
    guided: bool
    tile: int | None = None

    def of(self, images: int, size: tuple[int, int]) -> int:
        """Bytes, about, of some images of a height and width in pixels."""
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
        places = height * width // config.patch_size**2
        channels = config.base_channels * max(config.channel_multipliers[:2])
        maps = places * channels * self.tokenizer.dtype.itemsize * DECODER_MAPS
        return int(images * (maps + 3 * math.prod(scales[-1]) * factor**2 * FLOAT * 3))


def check_images(memory: ImageMemory, images: int, size: tuple[int, int], device: torch.device) -> None:
    """Refuse pictures that would not fit the memory, and say what would.

    Raises:
        UserError: they are too many or too large.
    """
    free = free_memory(device)
    if max(size) > MAX_IMAGE_SIDE:
        raise UserError(f"image sides must be at most {MAX_IMAGE_SIDE} pixels, got {size[0]}×{size[1]}")
    if free is None or (need := memory.of(images, size)) <= free:
        return
    problem = f"{images} image{'s' * (images > 1)} of {size[0]}×{size[1]} pixels need about {_gib(need)}"
    fitting = largest_fitting(lambda count: memory.of(count, size) <= free, images)
    if fitting:
        raise UserError(f"{problem} and {_gib(free)} are free: make at most {fitting} at a time")
    factor = memory.tokenizer.downsample_factor
    steps = max(size) // factor
    side = largest_fitting(lambda step: memory.of(1, _scaled(size, step, steps, factor)) <= free, steps)
    height, width = _scaled(size, max(side, 1), steps, factor)
    raise UserError(f"{problem} and {_gib(free)} are free: at most {height}×{width} would fit")


def largest_fitting(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to a limit that fits, if all below it do; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def check_training(parameters: int, device: torch.device) -> None:
    """Refuse to train a model whose weights alone would not fit the memory.

    Args:
        parameters: numbers that are trained on this device.
        device: where.

    Raises:
        UserError: it is too large.
    """
    need, free = parameters * TRAINING_COPIES * FLOAT, free_memory(device)
    if free is not None and need > free:
        raise UserError(
            f"the recipe's model has {parameters:,} parameters, which need {_gib(need)} to be trained, and "
            f"{_gib(free)} are free: lower its width or depth"
        )


def check_step(kept: int, device: torch.device) -> None:
    """Refuse a training step whose activations would not nearly fit the memory.

    Args:
        kept: bytes that a forward pass leaves for the backward one.
        device: where.

    Raises:
        UserError: they are too many.
    """
    free = free_memory(device)
    if free is not None and kept > SLACK * free:
        raise UserError(
            f"a step keeps about {_gib(kept)} of activations and {_gib(free)} are free: lower "
            "data.batch_size and raise run.accumulation"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    words = str(error).lower()
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(phrase in words for phrase in OUT_OF_MEMORY)
    )


def _scaled(size: tuple[int, int], step: int, steps: int, factor: int) -> tuple[int, int]:
    """A size in proportion whose longer side has some steps of the down-sampling factor."""
    height, width = (max(1, round(side // factor * step / steps)) * factor for side in size)
    return height, width


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size < 1000 * GIB else f"{size / GIB:,.0f} GiB"
