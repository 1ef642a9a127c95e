"""``openhart generate``: images of prompts, classes or other images into a folder or a file.

Heavy libraries are imported after the options have been checked.
"""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.computing import add_computing, check_computing, load_pipeline
from openhart.cli.conditions import Subject, call_arguments, condition_names, read_subjects
from openhart.cli.files import check_image_path
from openhart.cli.like import check_model, describer, follow_record
from openhart.cli.options import (
    LARGEST_SEED,
    MANY,
    UsageError,
    add_command,
    add_quiet,
    place,
    text,
    whole,
)
from openhart.cli.sampling import add_sampling, given_sampling, in_flags
from openhart.errors import UserError
from openhart.image_io import grid, save_image

EXAMPLE = 'openhart generate "a red apple" -o apple.png --seed 0'
IMAGES_AT_A_TIME = 8
MOST_IMAGES = 100_000
MOST_PREVIEWS = 16


@dataclass(frozen=True)
class Job:
    """One image to make.

    Attributes:
        subject: what it is made of.
        seed: its seed.
        path: its file.
    """

    subject: Subject
    seed: int
    path: Path


def add_generate(commands: Any) -> None:
    """Add the options."""
    parser = add_command(
        commands, "generate", "Generate images from prompts, class labels or other images.", EXAMPLE
    )
    add = parser.add_argument
    add(
        "prompts", nargs="*", type=text, metavar="PROMPT",
        help="Text that describes an image; put each prompt in quotes. An empty prompt (\"\") generates "
        "without a condition.",
    )  # fmt: skip
    add(
        "-o", "--output", type=place, default=place("."), metavar="PATH",
        help="Folder of the images, or a .png, .jpg, .jpeg or .webp file for a single image (default: the "
        "current folder).",
    )  # fmt: skip
    add(
        "--label", type=whole(0, 10**8), action="append", metavar="N",
        help="Class label in place of a prompt, for class-conditional models; may be given several times.",
    )  # fmt: skip
    add(
        "--condition", type=place, action="append", metavar="FILE",
        help="Image, or .json file of its codes, in place of a prompt, for models that are conditioned on "
        "codes: colours, gray levels such as depth, or numbers of classes as pixels; may be given several "
        "times.",
    )  # fmt: skip
    add(
        "--seed", type=whole(0, LARGEST_SEED), metavar="N",
        help="Seed of the first image per prompt; further images of a prompt have the following seeds. "
        "Equal seeds give equal images (default: a random seed, which is printed).",
    )  # fmt: skip
    add(
        "--images-per-prompt", type=whole(1, MANY), default=1, metavar="N",
        help="Number of images per prompt, label or condition (default: 1).",
    )  # fmt: skip
    add("--height", type=whole(1, MANY), metavar="PIXELS", help="Height (default: that of the model).")
    add("--width", type=whole(1, MANY), metavar="PIXELS", help="Width (default: that of the model).")
    add(
        "--previews", action="store_true",
        help="Also save NAME-previews.png, which shows the image after each scale, step or row, or after 16 "
        "of them if there are more.",
    )  # fmt: skip
    add(
        "--negative-prompt", type=text, metavar="TEXT",
        help="Text that guidance steers away from (default: the empty condition).",
    )  # fmt: skip
    add(
        "--like", type=place, metavar="IMAGE",
        help="Make an image again: prompt, seed, size, settings and data type are those in the file, which "
        "this command or openhart serve wrote.",
    )  # fmt: skip
    add(
        "--no-metadata", action="store_true",
        help="Do not write prompt, seed and settings into the images.",
    )  # fmt: skip
    add_sampling(parser)
    add_computing(parser)
    add_quiet(parser)
    parser.set_defaults(run=generate, between_options="prompts")


def generate(options: Namespace) -> None:
    """Make the images and print each one's file and seed."""
    record = follow_record(options)
    names = condition_names(options)
    check_computing(options)
    sampling = given_sampling(options)
    paths = _image_paths(options, names)
    from openhart.model_files import find_model
    from openhart.randomness import random_seed

    check_model(record, find_model(options.model), options.like)
    pipeline = load_pipeline(options)
    subjects = read_subjects(pipeline, options)
    pipeline.set_progress_bar_config(disable=options.quiet, leave=False)
    first = random_seed() if options.seed is None else options.seed
    seeded = [(each, first + number) for each in subjects for number in range(options.images_per_prompt)]
    jobs = [Job(*each, path) for each, path in zip(seeded, paths, strict=True)]
    describe = describer(pipeline, options, sampling)
    for part in _batches(pipeline, jobs, sampling):
        for job, (image, strip) in zip(part, _pictures(pipeline, part, options, sampling), strict=True):
            save_image(image, job.path, describe(job.subject, job.seed))
            if strip is not None:
                save_image(strip, job.path.with_name(f"{job.path.stem}-previews.png"))
            if not options.quiet:
                print(f"{job.path}  seed {job.seed}")


def _batches(pipeline: Any, jobs: list[Job], sampling: dict[str, Any]) -> Iterator[list[Job]]:
    """The jobs in order, as many of the same argument and size together as fit into memory."""
    memory = pipeline.memory(pipeline.sampling_settings(**sampling))
    for (_, size), group in groupby(jobs, key=lambda job: (job.subject.argument, job.subject.size)):
        same = list(group)
        together = _images_at_a_time(pipeline, memory, size)
        yield from (same[start : start + together] for start in range(0, len(same), together))


def _images_at_a_time(pipeline: Any, memory: Any, size: tuple[int | None, int | None]) -> int:
    """Number of images that fit into memory together, at least 1; the pipeline refuses one that does not."""
    from openhart.memory import free_memory, largest_fitting

    pixels, free = pipeline.check_size(*size), free_memory(pipeline.device)
    if free is None:
        return IMAGES_AT_A_TIME
    return max(1, largest_fitting(lambda count: memory.of(count, pixels) <= free, IMAGES_AT_A_TIME))


def _image_paths(options: Namespace, names: list[str]) -> list[Path]:
    """The file of each image, all different.

    Raises:
        UsageError: several images for one file, or a suffix that is not that of an image format.
        OSError: nothing can be written there.
    """
    output, each = options.output, options.images_per_prompt
    if len(names) * each > MOST_IMAGES:
        raise UsageError(
            f"{len(names) * each} images are too many for one command: generate at most {MOST_IMAGES}"
        )
    is_file = (output.exists() and not output.is_dir()) or (bool(output.suffix) and not output.is_dir())
    if is_file:
        if len(names) * each > 1:
            raise UsageError(f"{len(names) * each} images need a folder, but {output} is a file")
        check_image_path(output)
        return [output]
    check_writable(output)
    return [output / f"{name}.png" for name in distinct(names, each)]


def distinct(names: list[str], each: int) -> Iterator[str]:
    """Each name ``each`` times, with a number where the name or that of its previews is already used."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for name in (name for name in names for _ in range(each)):
        chosen = name
        while taken & {chosen, f"{chosen}-previews"}:
            numbers[name] = numbers.get(name, 1) + 1
            chosen = f"{name}-{numbers[name]}"
        taken |= {chosen, f"{chosen}-previews"}
        yield chosen


def _pictures(
    pipeline: Any, jobs: list[Job], options: Namespace, sampling: dict[str, Any]
) -> list[tuple[Any, Any]]:
    """For each job its image, and its previews side by side or None."""
    from openhart.randomness import seeded_generators

    call = call_arguments([job.subject for job in jobs])
    call |= {"generator": seeded_generators(job.seed for job in jobs), **sampling}
    if options.negative_prompt is not None:
        call["negative_prompt"] = options.negative_prompt
    try:
        if not options.previews:
            return [(image, None) for image in pipeline(**call).images]
        states = pipeline.progress_bar(pipeline.stream(**call))
        steps = [pipeline.decode_preview(state) for state in states if is_shown(state.index, state.count)]
    except UserError as error:
        raise UserError(in_flags(str(error))) from error
    return [(row[-1], grid(row, columns=len(row))) for row in zip(*steps, strict=True)]


def is_shown(index: int, count: int) -> bool:
    """Whether a preview shows the state of an index among ``count``; evenly spaced, the last one included."""
    shown = min(count, MOST_PREVIEWS)
    return (index + 1) * shown // count > index * shown // count
