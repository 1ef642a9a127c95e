"""What a run sends to its trackers: numbers and images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from openhart.image_io import to_bytes
from openhart.training.run import history
from openhart.training.run.distributed import mean_over_processes


def log_metrics(
    accelerator: Accelerator, metrics: dict[str, Any], step: int, bar: Any, shown: Iterable[str]
) -> None:
    """Send numbers, averaged over processes, to trackers, history and, if ``shown``, the progress bar."""
    numbers = [float(torch.as_tensor(value).detach()) for value in metrics.values()]
    means = mean_over_processes(accelerator, torch.tensor(numbers, device=accelerator.device)).tolist()
    values = dict(zip(metrics, means, strict=True))
    accelerator.log(values, step=step)
    if accelerator.is_main_process:
        history.append(Path(accelerator.project_dir), step, values)
    bar.set_postfix({name: f"{values[name]:.4g}" for name in shown if name in values})


def log_images(accelerator: Accelerator, name: str, images: Tensor, step: int) -> None:
    """Send a batch of images (B, 3, H, W) in [−1, 1] to the trackers."""
    pixels = to_bytes(images)
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: pixels}, step=step, **layout)
