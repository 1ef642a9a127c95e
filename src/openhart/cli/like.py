"""The record of an image in its file: made from a command's options, and followed by ``--like``."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openhart import __version__
from openhart.cli.computing import COMPUTATION, computation
from openhart.cli.conditions import Subject
from openhart.cli.options import UsageError
from openhart.cli.sampling import FLAGS
from openhart.errors import UserError
from openhart.provenance import Record, model_hash, read_record

ARGUMENTS = {"prompt": "prompt", "class_labels": "label"}
"""Arguments of a pipeline's call whose values a record holds, and their names there."""


def follow_record(options: Namespace) -> Record | None:
    """Replace the options by those that made the image of ``--like``; nothing without ``--like``.

    Raises:
        UsageError: a prompt, a label, a seed or a size is given too.
        UserError: the file has no record, or its record needs what this command does not have.
    """
    if options.like is None:
        return None
    given = [
        options.prompts,
        options.label,
        options.condition,
        options.negative_prompt,
        options.height,
        options.width,
    ]
    if any(given) or options.seed is not None or options.images_per_prompt != 1:
        raise UsageError("--like determines prompt, seed and size: omit them, or omit --like")
    record = read_record(options.like)
    options.prompts = [] if record.prompt is None else [record.prompt]
    options.label = None if record.label is None else [record.label]
    options.negative_prompt, options.seed = record.negative_prompt, record.seed
    options.height, options.width = record.height, record.width
    _follow_sampling(options, record)
    _follow_computation(options, record)
    return record


def _follow_sampling(options: Namespace, record: Record) -> None:
    if unknown := [name for name in record.sampling if name not in FLAGS]:
        raise UserError(f"{options.like} was made with an unknown setting {unknown[0]}: use a later OpenHART")
    for name, value in record.sampling.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def _follow_computation(options: Namespace, record: Record) -> None:
    if unknown := [name for name in record.computation if name not in COMPUTATION]:
        raise UserError(f"{options.like} was made with an unknown option {unknown[0]}: use a later OpenHART")
    choices: dict[str, tuple[str, ...]] = {
        "dtype": ("float32", "bfloat16"),
        "optimize": ("exact", "fast", "fastest"),
        "weights": ("int8", "fp8"),
    }
    for name, value in record.computation.items():
        if name == "lora":
            if options.lora is None:
                raise UserError(f"{options.like} was made with the LoRA adapter {value}: give it by --lora")
        elif value not in choices[name]:
            raise UserError(f"{options.like} was made with --{name} {value}, which is not known here")
        else:
            setattr(options, name, value)


def check_model(record: Record | None, model: Path, like: Any) -> None:
    """Compare the model's files with those of the model that made the image.

    Raises:
        UserError: they differ.
    """
    if record is not None and record.model_hash and record.model_hash != model_hash(model):
        raise UserError(
            f"{like} was made by another model ({record.model or 'without a name'}, files "
            f"{record.model_hash}): give that model by --model"
        )


def describer(
    pipeline: Any, options: Namespace, sampling: dict[str, Any]
) -> Callable[[Subject, int], Record | None]:
    """What gives the record of an image from its subject and seed.

    There is none with ``--no-metadata``, nor for a subject that is an image or codes, which a record does not
    hold.
    """
    if options.no_metadata:
        return lambda _subject, _seed: None
    from openhart.model_files import find_model

    settings = asdict(pipeline.sampling_settings(**sampling))
    name, files = options.model or "openhart", model_hash(find_model(options.model))
    name = Path(name).name if Path(name).is_dir() else name

    def describe(subject: Subject, seed: int) -> Record | None:
        field = ARGUMENTS.get(subject.argument or "")
        if subject.argument is not None and field is None:
            return None
        height, width = pipeline.check_size(*subject.size)
        return Record(
            **({field: subject.value} if field else {}),
            negative_prompt=options.negative_prompt,
            seed=seed,
            height=height,
            width=width,
            sampling=settings,
            model=name,
            model_hash=files,
            computation=computation(options),
            version=__version__,
        )

    return describe
