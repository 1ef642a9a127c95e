"""Throughput of a run: samples per second, and achieved FLOP/s relative to the machine's matrix product."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from openhart.arithmetic import matmul_rate


class Pace:
    """Clocks steps, including their wait for data, but neither saving nor sample images.

    Args:
        accelerator: of the run.
        samples: of a step, on one process.
    """

    def __init__(self, accelerator: Accelerator, samples: int) -> None:
        self.processes, self.samples = accelerator.num_processes, samples
        self.device = accelerator.device
        lower = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.peak = matmul_rate(self.device, lower.get(accelerator.mixed_precision, torch.float32))
        self.done, self.worked, self.seconds = 0, 0.0, 0.0

    @contextmanager
    def step(self, flops: float) -> Iterator[None]:
        """Clock one step of as many FLOPs on one process."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.done += 1
        self.worked += flops

    def since_last_call(self) -> dict[str, float]:
        """Figures of the steps since the last call.

        Returns:
            ``samples_per_second`` and ``teraflops_per_second`` of all processes; ``mfu``, the ratio of the
            FLOP/s to those of a large matrix product on this machine; ``peak_gib``, the most memory that this
            process has held so far, of its accelerator if it has one.
        """
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
