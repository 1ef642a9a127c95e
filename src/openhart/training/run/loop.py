"""What both stages share: opening a run and its log."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration
from torch import Tensor
from tqdm.auto import tqdm

from openhart.errors import UserError, reason, require
from openhart.image_io import to_bytes
from openhart.training.config import GeneratorRecipe, TokenizerRecipe
from openhart.training.run import history
from openhart.training.run.distributed import mean_over_processes

PROJECT = "openhart"


def open_run(recipe: GeneratorRecipe | TokenizerRecipe, all_used: bool) -> tuple[Accelerator, Path]:
    """Start accelerate and its trackers for a run and make its folder.

    Args:
        recipe: what is to run.
        all_used: whether every step gives every weight a gradient, so that processes need not look.

    Raises:
        UserError: the output folder cannot be made, or a tracker cannot be used.
    """
    run, output = recipe.run, Path(recipe.run.output)
    require(*run.trackers)
    if run.precision == "fp16" and not torch.accelerator.is_available():
        raise UserError("run.precision: fp16 needs a GPU, use bf16 or no")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make output folder {output}: {error.strerror}") from error
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=not all_used, gradient_as_bucket_view=True, broadcast_buffers=False
    )
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else several processes on CPUs are not seen
        mixed_precision=run.precision,
        log_with=list(run.trackers),
        project_config=ProjectConfiguration(str(output), logging_dir=str(output / "log")),
        kwargs_handlers=[ddp],
    )
    wandb = {
        "name": output.name,
        "dir": str(output),
        "resume": "auto",
        "config": recipe.model_dump(mode="json"),
    }
    try:
        accelerator.init_trackers(PROJECT, init_kwargs={"wandb": wandb})
    except Exception as error:
        if "wandb" not in type(error).__module__:
            raise
        raise UserError(f"run.trackers: wandb failed: {reason(error)}") from error
    return accelerator, output


def close_run(accelerator: Accelerator) -> None:
    """End trackers and processes, once the caller has let go of the run's models.

    A model under DDP that outlives its processes' group takes it down with the interpreter locked, and that
    waits forever if a thread of gloo still lets go of a tensor (github.com/pytorch/pytorch/issues/56297).
    """
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()


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
    """Send numbers, averaged over processes, to the trackers and the history; some to the progress bar."""
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
