"""Saving a run so that it resumes as if it had never stopped."""

import os
import re
import shutil
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from openhart.errors import UserError
from openhart.training import history

FOLDER = "checkpoints"


def save_checkpoint(accelerator: Accelerator, output: Path, step: int, keep: int) -> None:
    """Write ``output/checkpoints/step-N`` whole or not at all, and drop all but the last ``keep``.

    A full disk or an unwritable folder costs this checkpoint and a warning, not the run.
    """
    final = output / FOLDER / f"step-{step:08d}"
    partial = final.with_suffix(".partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        failure = None
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors have errors of their own
        failure = error
    good = torch.tensor(float(failure is None), device=accelerator.device)
    everywhere = round(float(accelerator.reduce(good))) == accelerator.num_processes
    if not everywhere:
        if failure is not None:
            reason = str(failure).strip().splitlines()[0]
            warnings.warn(
                f"cannot save the checkpoint of step {step}, training goes on: {reason}", stacklevel=2
            )
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        return
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in _checkpoints(output)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def resume(accelerator: Accelerator, output: Path) -> int:
    """Load the last whole checkpoint, if there is one; returns the number of steps already done.

    Raises:
        UserError: it is that of another model or kind of run.
    """
    checkpoints = _checkpoints(output)
    done = 0
    if checkpoints:
        try:
            accelerator.load_state(str(checkpoints[-1]))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"cannot resume from {checkpoints[-1]}: is it another model's, another "
                f"run.parallel's, or one process's instead of several? ({reason})"
            ) from error
        done = int(checkpoints[-1].name.removeprefix("step-"))
    if accelerator.is_main_process:
        history.forget_from(output, done)
    return done


def _checkpoints(output: Path) -> list[Path]:
    folder = output / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name))
