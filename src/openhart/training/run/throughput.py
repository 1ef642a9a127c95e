"""How fast a run goes: samples a second, and achieved FLOP/s against the machine's own matrix product."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from openhart.arithmetic import matmul_rate


class Pace:
    """Clocks steps, their wait for data included, and saving and sample pictures not.

    Args:
        accelerator: says how many processes there are, on what.
        samples: of a step, on one process.
        flops: of a step, on one process; may change from step to step.
    """

    def __init__(self, accelerator: Accelerator, samples: int, flops: float) -> None:
        self.processes, self.samples, self.flops = accelerator.num_processes, samples, flops
        self.device = accelerator.device
        lower = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.peak = matmul_rate(self.device, lower.get(accelerator.mixed_precision, torch.float32))
        self.done, self.worked, self.seconds = 0, 0.0, 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Clock one step."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.done += 1
        self.worked += self.flops

    def since_last_asked(self) -> dict[str, float]:
        """Samples and achieved FLOPs a second of all processes; ``mfu``: these over what products reach;
        ``peak_gib``: most memory this process has held so far, of its accelerator if it has one."""
        rate = self.worked / self.seconds
        found = {
            "samples_per_second": self.done * self.samples / self.seconds * self.processes,
            "teraflops_per_second": rate / 1e12 * self.processes,
            "mfu": rate / self.peak,
            "peak_gib": self._peak_bytes() / 2**30,
        }
        self.done, self.worked, self.seconds = 0, 0.0, 0.0
        return found

    def _peak_bytes(self) -> int:
        if self.device.type == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return torch.accelerator.max_memory_allocated(self.device)
