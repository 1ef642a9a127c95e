"""What both stages share: opening a run, its rate of learning, its log."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.optim import Optimizer as TorchOptimizer
from tqdm.auto import tqdm

from openhart.errors import UserError
from openhart.training import history
from openhart.training.config import Optimizer, Run
from openhart.training.parallel import mean_over_processes


def open_run(run: Run) -> tuple[Accelerator, Path]:
    """Start accelerate and TensorBoard for a run and make its folder.

    Raises:
        UserError: the output folder cannot be made.
    """
    output = Path(run.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make output folder {output}: {error.strerror}") from error
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else several processes on CPUs are not seen
        mixed_precision=run.precision,
        log_with="tensorboard",
        project_dir=str(output),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )
    accelerator.init_trackers("log")
    return accelerator, output


def rate_at(step: int, total: int, optimizer: Optimizer) -> float:
    """Learning rate of a step: linear warm-up, then cosine down to ``final_ratio`` of the peak."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / max(total - optimizer.warmup_steps, 1)
    floor = optimizer.final_ratio
    return optimizer.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


def set_rate(optimizer: TorchOptimizer, rate: float) -> None:
    """Give every parameter group of an optimizer the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def steps_with_progress(
    accelerator: Accelerator, first: int, total: int, name: str, quiet: bool
) -> Iterator[tuple[int, Any]]:
    """Yield each step and the progress bar that shows it."""
    hidden = quiet or not accelerator.is_main_process
    with tqdm(total=total, initial=first, desc=name, disable=hidden) as bar:
        for step in range(first, total):
            yield step, bar
            bar.update()


def log_metrics(
    accelerator: Accelerator, metrics: dict[str, Any], step: int, bar: Any, shown: Iterable[str]
) -> None:
    """Send numbers, averaged over processes, to TensorBoard and the history; some to the progress bar."""
    numbers = [float(torch.as_tensor(value).detach()) for value in metrics.values()]
    means = mean_over_processes(accelerator, torch.tensor(numbers, device=accelerator.device)).tolist()
    values = dict(zip(metrics, means, strict=True))
    accelerator.log(values, step=step)
    if accelerator.is_main_process:
        history.append(Path(accelerator.project_dir), step, values)
    bar.set_postfix({name: f"{values[name]:.4g}" for name in shown if name in values})


def log_images(accelerator: Accelerator, name: str, images: Tensor, step: int) -> None:
    """Send a batch of images (B, 3, H, W) in [−1, 1] to TensorBoard."""
    if accelerator.is_main_process:
        writer = accelerator.get_tracker("tensorboard", unwrap=True)
        writer.add_images(name, (images.float().clamp(-1, 1) + 1) / 2, step)
