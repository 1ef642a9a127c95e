"""Filling a sample folder: resumable after any interruption, by one or several processes."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from openhart.atomic import written_whole
from openhart.errors import UserError, require
from openhart.evaluation.images import Images, generate
from openhart.evaluation.samples.layouts import Condition, Job, Plan
from openhart.evaluation.samples.record import describe, start_record
from openhart.image_io import grid, save_image

UNFINISHED = re.compile(r"\..*-[0-9a-f]{8}\.(png|jpg|json|jsonl)")
Generate = Callable[[Sequence[Condition], Sequence[int]], Images]


@dataclass(frozen=True)
class Output:
    """Settings of the image files.

    Attributes:
        batch_size: number of images per pipeline call.
        rounding: one of :data:`openhart.image_io.ROUNDING_RULES`.
        file_type: ``png``, or ``jpg`` with the default quality of Pillow; None means the published type.
    """

    batch_size: int = 8
    rounding: str = "round"
    file_type: str | None = None


@dataclass(frozen=True)
class Processes:
    """This process among those that fill a folder together.

    Attributes:
        index: number of this process.
        count: number of processes.
        share: sends an object of process 0 to all processes; collective, so every process calls it.
        device: device of this process, or None for the default one.
    """

    index: int = 0
    count: int = 1
    share: Callable[[Any], Any] = lambda value: value
    device: str | None = None


def join_processes() -> Processes:
    """The processes that ``accelerate launch`` or ``torchrun`` started; a single one otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    require("accelerate", extra="eval")
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()

    def share(value: Any) -> Any:
        values = [value]
        broadcast_object_list(values)
        return values[0]

    return Processes(state.process_index, state.num_processes, share, str(state.device))


def make_samples(
    pipeline: Any,
    model: str,
    plan: Plan,
    folder: Path,
    output: Output | None = None,
    quiet: bool = False,
    processes: Processes | None = None,
    call: Mapping[str, Any] | None = None,
) -> None:
    """Generate the images of a benchmark that the folder does not have yet.

    The folder gets a record of everything that determines its images, ``samples.json``. Images are generated
    in fixed batches, so an interrupted run, and any number of processes, gives identical files.

    Args:
        pipeline: a diffusers pipeline that accepts lists of prompts (or ``class_labels``) and of generators.
        model: folder or hub id of the model, for the record.
        plan: the benchmark's images.
        folder: a new folder, or one that was filled in part with the same settings.
        output: settings of the image files.
        quiet: show no progress bar.
        processes: see :func:`join_processes`; None means a single process.
        call: further arguments of the pipeline call.

    Raises:
        UserError: the folder was made with other settings, or the benchmark does not accept the file type.
        OSError: a file cannot be written.
    """
    output, processes, call = output or Output(), processes or Processes(), dict(call or {})
    kind = output.file_type or plan.file_types[0]
    if kind not in plan.file_types:
        raise UserError(
            f"images of {plan.benchmark} must be {' or '.join(plan.file_types)} files, got {kind}"
        )
    made_with = {"batch_size": output.batch_size, "rounding": output.rounding, "file_type": kind}
    record = describe(pipeline, model, plan, call, made_with)

    def make(conditions: Sequence[Condition], seeds: Sequence[int]) -> Images:
        return generate(pipeline, conditions, seeds, True, output.rounding, len(seeds), **call)

    fill_folder(folder, plan, record, make, output.batch_size, kind, processes, quiet)


def fill_folder(
    folder: Path,
    plan: Plan,
    record: Mapping[str, Any],
    make: Generate,
    batch_size: int,
    file_type: str,
    processes: Processes,
    quiet: bool,
) -> None:
    """Write the record and all missing files of a folder; see :func:`make_samples`.

    Args:
        folder: a new folder, or one with an equal record.
        plan: the benchmark's images.
        record: see :func:`openhart.evaluation.samples.record.describe`.
        make: conditions and seeds → images; its result depends on them alone.
        batch_size: number of images per call of ``make``.
        file_type: ``png`` or ``jpg``.
        processes: the processes that share the work.
        quiet: show no progress bar.

    Raises:
        UserError: the folder was made with other settings.
    """
    refused = processes.share(_start(folder, plan, record) if processes.index == 0 else None)
    if refused is not None:
        raise UserError(refused)
    batches = _batches(plan.jobs, batch_size)[processes.index :: processes.count]
    waiting = [jobs for jobs in batches if not all(_done(folder, job, file_type) for job in jobs)]
    total = sum(len(job.seeds) for jobs in waiting for job in jobs)
    with tqdm(total=total, desc="images", unit="image", disable=quiet or processes.index > 0) as progress:
        for jobs in waiting:
            conditions = [job.condition for job in jobs for _ in job.seeds]
            seeds = [seed for job in jobs for seed in job.seeds]
            images = make(conditions, seeds)
            for job in jobs:
                own, images = images[: len(job.seeds)], images[len(job.seeds) :]
                if not _done(folder, job, file_type):
                    _write(folder / f"{job.path}.{file_type}", own)
            progress.update(len(seeds))
    processes.share(None)


def _start(folder: Path, plan: Plan, record: Mapping[str, Any]) -> str | None:
    """Prepare the folder in the first process; returns why it is refused, or None."""
    try:
        start_record(folder, record)
    except UserError as error:
        return str(error)
    for path in folder.rglob(".*"):
        if UNFINISHED.fullmatch(path.name):
            path.unlink()
    for name, text in plan.texts.items():
        if not (folder / name).exists():
            with written_whole(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return None


def _batches(jobs: Sequence[Job], batch_size: int) -> list[Sequence[Job]]:
    """Consecutive jobs with at most ``batch_size`` images together, at least one job each."""
    per_job = max((len(job.seeds) for job in jobs), default=1)
    step = max(1, batch_size // per_job)
    return [jobs[start : start + step] for start in range(0, len(jobs), step)]


def _done(folder: Path, job: Job, file_type: str) -> bool:
    path = folder / f"{job.path}.{file_type}"
    return path.is_file() and path.stat().st_size > 0


def _write(path: Path, images: Images) -> None:
    pictures = [Image.fromarray(each) for each in images]
    save_image(pictures[0] if len(pictures) == 1 else grid(pictures, columns=2), path)
