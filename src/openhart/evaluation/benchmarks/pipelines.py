"""Several pipelines on the same prompts: seconds per image, peak memory and quality, in one table."""

import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openhart.errors import UserError
from openhart.evaluation.any_pipeline import check_call, check_prompts, load_any_pipeline
from openhart.evaluation.benchmarks.distances import evaluate_distances
from openhart.evaluation.benchmarks.hps import HPS_RULES, on_square
from openhart.evaluation.image_folders import find_images
from openhart.evaluation.images import Images, generate
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.networks.clip import ImageTextModel
from openhart.evaluation.networks.extractors import Extractor
from openhart.evaluation.result import Figure, Result
from openhart.evaluation.samples.layouts import Condition, Plan
from openhart.evaluation.samples.make import Processes, fill_folder
from openhart.evaluation.samples.record import describe
from openhart.evaluation.similarity import RULES, mean_similarity, similarities
from openhart.memory import GIB, peak_memory

TIME = "seconds per image"
FIRST = "seconds of the first call"
MEMORY = "peak memory, GiB"
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Candidate:
    """One pipeline of the comparison: folder or hub id (None: the packaged model), arguments of its call."""

    model: str | None
    call: Mapping[str, Any]


@dataclass(frozen=True)
class Setup:
    """How every pipeline is run.

    Attributes:
        device: where the pipelines run.
        dtype: type of the weights.
        batch_size: images per call; 1 measures latency.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 1


@dataclass(frozen=True)
class Run:
    """What one pipeline took.

    Attributes:
        pipeline: its class.
        seconds: per call, the first one included.
        images: number of images per call.
        peak: most bytes held by its process, or on its GPU; None if unknown.
        machine: processor or GPU, with the number of threads on a processor.
    """

    pipeline: str
    seconds: tuple[float, ...]
    images: tuple[int, ...]
    peak: int | None
    machine: str


@dataclass(frozen=True)
class Quality:
    """What the images are compared with; empty fields omit their figures.

    Attributes:
        reference: folder of real images.
        extractors: the network of each distance to it, such as ``FD`` and ``KID``.
        clip: CLIP model of the CLIP score.
        hps: CLIP model with the weights of HPSv2.
    """

    reference: Path | None = None
    extractors: Mapping[str, Extractor] | None = None
    clip: ImageTextModel | None = None
    hps: ImageTextModel | None = None


def run_pipeline(candidate: Candidate, plan: Plan, folder: Path, setup: Setup) -> Run:
    """Load any diffusers pipeline and generate the images of a plan, one timed call per batch.

    Args:
        candidate: the pipeline.
        plan: prompts and seeds.
        folder: a new folder for the images and their record.
        setup: how it is run.

    Raises:
        UserError: the model cannot be loaded, or its call has no such argument.
    """
    call = dict(candidate.call)
    pipeline = load_any_pipeline(candidate.model, setup.dtype, setup.device)
    check_prompts(pipeline, "pipelines")
    check_call(pipeline, call)
    seconds: list[float] = []
    images: list[int] = []

    def make(conditions: Sequence[Condition], seeds: Sequence[int]) -> Images:
        start = time.perf_counter()
        made = generate(pipeline, conditions, seeds, True, batch_size=len(seeds), **call)
        seconds.append(time.perf_counter() - start)
        images.append(len(made))
        return made

    kind = plan.file_types[0]
    made_with = {"batch_size": setup.batch_size, "rounding": "round", "file_type": kind}
    record = describe(pipeline, candidate.model or "packaged", plan, call, made_with)
    fill_folder(folder, plan, record, make, setup.batch_size, kind, Processes(), quiet=True)
    device = torch.device(setup.device)
    return Run(
        type(pipeline).__name__, tuple(seconds), tuple(images), peak_memory(device), machine_name(device)
    )


def run_apart(candidate: Candidate, plan: Plan, folder: Path, setup: Setup) -> Run:
    """:func:`run_pipeline` in a process of its own, so that its peak memory is that of one pipeline.

    Raises:
        UserError: see :func:`run_pipeline`, or the process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(run_pipeline, candidate, plan, folder, setup).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"the process of {candidate.model or 'the packaged model'} ended without a result, perhaps "
                "for lack of memory: use a smaller batch or --dtype bfloat16"
            ) from error


def machine_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with the number of PyTorch's threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def evaluate_pipelines(
    candidates: Mapping[str, Candidate],
    plan: Plan,
    folder: Path,
    setup: Setup,
    quality: Quality,
    quiet: bool = False,
) -> Result:
    """Generate the same prompts with every pipeline, one after another, and measure all of them.

    Args:
        candidates: the pipelines by the names that their figures get.
        plan: prompts and seeds, at least two calls long.
        folder: each pipeline's images are written to a new folder in it that has the pipeline's name.
        setup: how they are run.
        quality: what the images are compared with.
        quiet: show no progress bar.

    Returns:
        for each pipeline ``NAME, seconds per image`` (mean without the first call), ``NAME, seconds of the
        first call``, ``NAME, peak memory, GiB`` and the figures of quality.

    Raises:
        UserError: there are too few prompts, a folder exists, or a model cannot be loaded.
    """
    if plan.count <= setup.batch_size:
        raise UserError(
            f"times need at least 2 calls, but {plan.count} images are 1 call of {setup.batch_size}: "
            "give more prompts, or a smaller batch"
        )
    for name in candidates:
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists: give a new folder, because making the images is timed")
    runs = {name: run_apart(each, plan, folder / name, setup) for name, each in candidates.items()}
    figures: list[Figure] = []
    for name, run in runs.items():
        figures += cost_figures(name, run, setup)
        figures += _quality(name, folder / name, plan, quality, quiet)
    details = {
        name: {
            "model": candidates[name].model or "packaged", "call": dict(candidates[name].call),
            "pipeline": run.pipeline, "seconds_per_call": run.seconds,
        }
        for name, run in runs.items()
    }  # fmt: skip
    made_by = {"prompts": dict(plan.prompts), "seed": plan.seed}
    return Result("pipelines", tuple(figures), made_by, {"pipelines": details})


def cost_figures(name: str, run: Run, setup: Setup) -> list[Figure]:
    """Seconds per image without the first call, seconds of the first call, and peak memory in GiB."""
    rules: dict[str, str | int] = {
        "machine": run.machine,
        "weights": str(setup.dtype).removeprefix("torch."),
        "batch_size": setup.batch_size,
    }
    later = np.array(run.seconds[1:]) / np.array(run.images[1:])
    figures = [
        Figure(
            f"{name}, {TIME}", float(later.mean()), sum(run.images[1:]), bootstrap_interval(later),
            rules={**rules, "calls": "without the first"},
        ),
        Figure(f"{name}, {FIRST}", run.seconds[0], run.images[0], rules=rules),
    ]  # fmt: skip
    if run.peak is not None:
        figures.append(Figure(f"{name}, {MEMORY}", run.peak / GIB, sum(run.images), rules=rules))
    return figures


def _quality(name: str, folder: Path, plan: Plan, quality: Quality, quiet: bool) -> list[Figure]:
    figures: list[Figure] = []
    if quality.reference is not None and quality.extractors:
        result = evaluate_distances(folder, quality.reference, quality.extractors, quiet=quiet)
        figures += [replace(figure, name=f"{name}, {figure.name}") for figure in result.figures]
    paths = find_images(folder)
    by_path = {job.path: str(job.condition) for job in plan.jobs}
    prompts = [by_path[str(path.relative_to(folder).with_suffix(""))] for path in paths]
    if quality.clip is not None:
        score = mean_similarity(similarities(quality.clip, paths, prompts, quiet=quiet))
        label = f"{name}, CLIP score"
        figures.append(Figure(label, score.value, len(paths), score.interval, quality.clip.name, RULES))
    if quality.hps is not None:
        score = mean_similarity(similarities(quality.hps, paths, prompts, on_square, quiet))
        label = f"{name}, HPSv2"
        figures.append(Figure(label, score.value, len(paths), score.interval, quality.hps.name, HPS_RULES))
    return figures
