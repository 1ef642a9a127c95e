"""Opening a run: processes, precision, trackers and the output folder; and closing it."""

from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration

from openhart.errors import UserError, reason, require
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.tokenizer.recipe import TokenizerRecipe

PROJECT = "openhart"


def open_run(recipe: GeneratorRecipe | TokenizerRecipe, all_used: bool) -> Accelerator:
    """Make the output folder of a run and start accelerate with its trackers.

    Args:
        recipe: of the run.
        all_used: whether every step gives every weight a gradient; else DDP searches for those without.

    Raises:
        UserError: if the output folder cannot be made, or if a tracker or the precision cannot be used.
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
        cpu=not torch.accelerator.is_available(),  # otherwise several processes on CPUs are not detected
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
    return accelerator


def close_run(accelerator: Accelerator) -> None:
    """End trackers and the process group, once no reference to the run's models is left.

    A DDP model that outlives its process group destroys it while holding the interpreter lock, and that waits
    forever if a thread of gloo still has to free a tensor (github.com/pytorch/pytorch/issues/56297).
    """
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
