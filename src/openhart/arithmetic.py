"""How fast a device multiplies matrices, and which precision it is fastest in.

Some processors multiply bfloat16 two to four times faster than float32; others have no instructions for it
and emulate it about a hundred times slower. A small product, timed, tells them apart.
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
    """FLOP/s of the fastest way to multiply square matrices that torch has on a device.

    Args:
        device: where to multiply.
        dtype: of the matrices.
        side: of the matrices; None for large ones.
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
    """bfloat16 where the device multiplies it faster than float32, else float32.

    A CPU is timed, which takes milliseconds; a CUDA device has bfloat16 instructions or not; of other devices
    nothing is known, so they stay in float32.
    """
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        low, full = (matmul_rate(device, dtype, SMALL_SIDE) for dtype in (torch.bfloat16, torch.float32))
        faster = low > full
    else:
        faster = False
    return torch.bfloat16 if faster else torch.float32
