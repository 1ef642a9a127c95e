"""Saving a run so that it resumes as if it had never stopped."""

import os
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

FOLDER = "checkpoints"


def save_checkpoint(accelerator: Accelerator, output: Path, step: int, keep: int) -> None:
    """Write ``output/checkpoints/step-N`` whole or not at all, and drop all but the last ``keep``."""
    final = output / FOLDER / f"step-{step:08d}"
    partial = final.with_suffix(".partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in _checkpoints(output)[:-keep]:
            shutil.rmtree(old)


def resume(accelerator: Accelerator, output: Path) -> int:
    """Load the last whole checkpoint, if there is one; returns the number of steps already done."""
    checkpoints = _checkpoints(output)
    if not checkpoints:
        return 0
    accelerator.load_state(str(checkpoints[-1]))
    return int(checkpoints[-1].name.removeprefix("step-"))


def _checkpoints(output: Path) -> list[Path]:
    folder = output / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name))
