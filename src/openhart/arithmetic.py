"""Measuring the matrix multiplication rate of a device, and choosing its fastest precision.

Some processors multiply bfloat16 two to four times faster than float32; others have no instructions for it
and emulate it about a hundred times slower. Timing a small matrix product distinguishes them.
"""

import time
from functools import cache

import torch
import torch.nn.functional as F

from openhart.onednn import linear, pack_weight, packs

SIDE, CPU_SIDE, SMALL_SIDE = 8192, 1024, 256
TRIALS = 5


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Highest measured rate of a square matrix product on a device, in FLOP/s.

    On a CPU, oneDNN's product with a packed weight is tried too. Results are cached per set of arguments.

    Args:
        device: the device.
        dtype: dtype of the matrices.
        side: number of rows and columns; None for 1024 on a CPU and 8192 on other devices.
    """
    side = side or (CPU_SIDE if device.type == "cpu" else SIDE)
    x, weight = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    ways = [lambda: F.linear(x, weight)]
    if device.type == "cpu" and packs(dtype):
        packed = pack_weight(weight)
        ways.append(lambda: linear(x, packed, None))
    best = 0.0
    with torch.no_grad():
        for way in ways * TRIALS:
            start = time.perf_counter()
            way()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the device multiplies it faster than float32, otherwise float32.

    On a CPU, both are timed, which takes milliseconds. On a CUDA device, bfloat16 is chosen if the device has
    instructions for it. On other devices the result is always float32.
    """
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        low, full = (matmul_rate(device, dtype, SMALL_SIDE) for dtype in (torch.bfloat16, torch.float32))
        faster = low > full
    else:
        faster = False
    return torch.bfloat16 if faster else torch.float32
