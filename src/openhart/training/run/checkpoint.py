"""Saving and resuming a run, so that a resumed run equals one that never stopped, to the bit.

A checkpoint is a folder: a safetensors file for each part of the run and for each process's random states,
and ``manifest.json`` with their sizes and checksums.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from openhart.checksums import changed_files, record_of
from openhart.errors import UserError, reason
from openhart.interrupts import PendingStop, Stopped
from openhart.training.run import history
from openhart.training.run.distributed import on_every_process, signal_on_any_process
from openhart.training.run.plain_state import load_state, save_state
from openhart.training.run.random_states import RandomStates
from openhart.training.run.settings import Run

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = 1
MISFITS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


class Saved(Protocol):
    """A part of a run that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores. Collective."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Restore it."""


class Checkpoints:
    """The checkpoints of a run, in ``run.output/checkpoints``.

    Args:
        accelerator: of the run.
        run: states their folder, how often they are saved and how many are kept.
        parts: what a checkpoint keeps, by name; models first.
        weights: returns the weights, which must be finite to be saved.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: Run,
        parts: Mapping[str, Saved],
        weights: Callable[[], Iterable[Tensor]],
    ) -> None:
        self.accelerator, self.run, self.parts, self.weights = accelerator, run, parts, weights
        self.output = Path(run.output)
        self.random = RandomStates(accelerator.device)

    def after_step(self, done: int, total: int, stop: PendingStop) -> None:
        """Save every ``run.save_every`` steps, at the end, and when a stop is requested. Collective.

        Args:
            done: steps taken so far.
            total: steps of the run.
            stop: the request.

        Raises:
            Stopped: if the run was requested to stop before its end.
            UserError: if the weights are not finite.
        """
        number = signal_on_any_process(self.accelerator, stop)
        last, due = done == total, done % self.run.save_every == 0
        saved = (last or due or number) and self.save(done)
        if number and not last:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            kept = "which is saved" if saved else "which could not be saved"
            raise Stopped(f"stopped after step {done} of {total}, {kept}: the same command goes on", number)

    def save(self, step: int) -> bool:
        """Write ``step-N`` completely or not at all, and delete all but the last ``run.keep_checkpoints``.
        Collective.

        If the disk is full or the folder cannot be written, a warning is shown and the run continues.

        Args:
            step: steps taken so far.

        Returns:
            whether it was written.

        Raises:
            UserError: if the weights are not finite; earlier checkpoints are kept.
        """
        self._check_finite(step)
        final = self.output / FOLDER / f"step-{step:08d}"
        partial = final.with_suffix(".partial")
        failure = self._on_main(_make_anew, partial)
        self.accelerator.wait_for_everyone()
        for name, part in self.parts.items():
            state = part.state_dict()  # collective, also if a part failed before
            failure = failure or self._on_main(save_state, state, partial / f"{name}.safetensors")
        random = partial / _random_file(self.accelerator.process_index)
        failure = failure or _failure(save_state, self.random.state_dict(), random)
        self.accelerator.wait_for_everyone()
        failure = failure or self._on_main(self._write_manifest, partial, step)
        written = on_every_process(self.accelerator, failure is None)
        if failure is not None:
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            warnings.warn(
                f"cannot save the checkpoint of step {step}, training goes on: {reason}", stacklevel=2
            )
        if self.accelerator.is_main_process:
            self._settle(partial, final if written else None)
        return written

    def resume(self) -> int:
        """Load the last complete checkpoint, if there is one. Collective.

        Returns:
            number of steps that are done.

        Raises:
            UserError: if it is damaged, or if it belongs to another model or kind of run.
        """
        checkpoints = _checkpoints(self.output)
        done = 0
        if checkpoints:
            self._load(checkpoints[-1])
            done = int(checkpoints[-1].name.removeprefix("step-"))
        if self.accelerator.is_main_process:
            history.forget_from(self.output, done)
        return done

    def _load(self, folder: Path) -> None:
        processes = _check_manifest(folder, list(self.parts))
        for name, part in self.parts.items():
            try:
                part.load_state_dict(load_state(folder / f"{name}.safetensors"))
            except UserError:
                raise
            except MISFITS as error:
                raise UserError(
                    f"cannot resume from {folder}: its {name} is another model's or run.parallel's "
                    f"({reason(error)})"
                ) from error
        # a run may go on with more processes than it had; nothing that it learns depends on these states
        file = folder / _random_file(min(self.accelerator.process_index, processes - 1))
        try:
            self.random.load_state_dict(load_state(file))
        except MISFITS as error:
            raise UserError(
                f"cannot resume from {folder}: the random states in {file.name} are broken"
            ) from error

    def _check_finite(self, step: int) -> None:
        finite = all(bool(weight.detach().isfinite().all()) for weight in self.weights())
        if not on_every_process(self.accelerator, finite):
            raise UserError(
                f"the weights are not finite after step {step} and were not saved; the last checkpoint is "
                "from before: lower the learning rate"
            )

    def _on_main(self, work: Callable[..., None], *values: Any) -> Exception | None:
        return _failure(work, *values) if self.accelerator.is_main_process else None

    def _write_manifest(self, partial: Path, step: int) -> None:
        processes = self.accelerator.num_processes
        names = [f"{name}.safetensors" for name in self.parts] + [_random_file(n) for n in range(processes)]
        about = {"format": FORMAT, "step": step, "processes": processes, "files": record_of(partial, names)}
        (partial / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    def _settle(self, partial: Path, final: Path | None) -> None:
        """Give a complete checkpoint its name and delete old ones; delete one that failed."""
        if final is None:
            shutil.rmtree(partial, ignore_errors=True)
            return
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in _checkpoints(self.output)[: -self.run.keep_checkpoints]:
            shutil.rmtree(old, ignore_errors=True)


def _check_manifest(folder: Path, parts: list[str]) -> int:
    """Check a checkpoint's files against its manifest; returns the number of processes that saved it.

    Raises:
        UserError: if files are missing, damaged or those of another kind of run.
    """
    path = folder / MANIFEST
    if not path.is_file() and list(folder.glob("*.pkl")):
        raise UserError(
            f"{folder} was saved by an earlier version as pickles, which can run code and are not read: "
            "finish the run with that version, or name another run.output"
        )
    way_out = f"delete {folder} to go on from the checkpoint before it"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        form, processes, files = about["format"], int(about["processes"]), dict(about["files"])
        damaged = changed_files(folder, files)
    except (*MISFITS, RecursionError) as error:
        raise UserError(f"{path} is missing or damaged: {way_out}") from error
    if form != FORMAT:
        raise UserError(f"{folder} has format {form}, this version reads {FORMAT}: update openhart")
    if damaged:
        raise UserError(f"{folder / damaged[0]} is missing or damaged: {way_out}")
    wanted = {f"{name}.safetensors" for name in parts}
    kept = files.keys() - {_random_file(number) for number in range(processes)}
    if len(files) != len(kept) + processes:
        raise UserError(f"{path} lacks the random states of a process: {way_out}")
    if kept != wanted:
        raise UserError(
            f"cannot resume from {folder}: is it another recipe's or another run.parallel's? "
            f"It keeps {', '.join(sorted(kept))}, this run {', '.join(sorted(wanted))}"
        )
    return processes


def _random_file(process: int) -> str:
    return f"random-{process}.safetensors"


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _failure(work: Callable[..., None], *values: Any) -> Exception | None:
    """What kept some work from being done, such as a full disk."""
    try:
        work(*values)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors have errors of their own
        return error
    return None


def _checkpoints(output: Path) -> list[Path]:
    folder = output / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name))
