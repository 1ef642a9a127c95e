"""What the kinds of ``openhart evaluate`` share: options, data, and the report of a result."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openhart.cli.device import find_device
from openhart.cli.options import (
    LARGEST_SEED,
    MANY,
    UsageError,
    add_command,
    add_model,
    add_quiet,
    named,
    place,
    whole,
)
from openhart.errors import UserError, require

if TYPE_CHECKING:
    from openhart.evaluation.result import Result

Report = dict[str, Any]
Measure = Callable[[Namespace], Report | None]


def add_kind(kinds: Any, name: str, measure: Measure, sentence: str, example: str) -> ArgumentParser:
    """Add a kind of evaluation with ``--quiet``.

    Args:
        kinds: the sub-commands of ``openhart evaluate``.
        name: its name.
        measure: its action, which returns the report to print, or None.
        sentence: describes it.
        example: its arguments, for an example.
    """
    parser = add_command(kinds, name, sentence, f"openhart evaluate {name} {example}")
    add_quiet(parser)
    parser.set_defaults(measure=measure)
    return parser


def add_json_output(parser: ArgumentParser) -> None:
    """Add ``--output``, the file of the report."""
    parser.add_argument(
        "-o", "--output", type=place, metavar="FILE",
        help="JSON file of the result (default: the result is only printed).",
    )  # fmt: skip


def add_data(parser: ArgumentParser) -> None:
    """Add the data to measure on, and which of its records, and the model."""
    parser.add_argument(
        "data",
        type=named,
        help="Image folder, webdataset shards (.tar), or hf:NAME for a Hugging Face data set.",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="FIELD=VALUE[,VALUE]",
        help="Use only records whose field has one of these values; may be given several times (default: "
        "all records).",
    )  # fmt: skip
    add_model(parser)


def add_prompts(parser: ArgumentParser) -> None:
    """Add how many prompts of the data to generate, and the first seed."""
    parser.add_argument(
        "--count", type=whole(1, MANY), default=256, metavar="N", help="Number of prompts (default: 256)."
    )
    add_seed(parser, "Seed of the choice of prompts and of the first image; each further image has the next")


def add_seed(parser: ArgumentParser, sentence: str, default: int = 0) -> None:
    """Add ``--seed``; ``sentence`` has no full stop."""
    parser.add_argument(
        "--seed", type=whole(0, LARGEST_SEED - MANY), default=default, metavar="N",
        help=f"{sentence} (default: {default}).",
    )  # fmt: skip


def open_tokenizer_and_data(options: Namespace) -> tuple[Any, Any]:
    """The image tokenizer of the model, on the fastest device, and the data in its size."""
    require("torchmetrics", "efficientnet_lite_pytorch", extra="eval")
    only = chosen_records(options)
    from openhart.data import open_dataset
    from openhart.model_files import load_image_tokenizer

    tokenizer = load_image_tokenizer(options.model)
    dataset = open_dataset(options.data, tokenizer.image_size, only=only)
    tokenizer.to(find_device())
    return tokenizer, dataset


def open_code_tokenizer_and_data(options: Namespace) -> tuple[Any, Any]:
    """As :func:`open_tokenizer_and_data`, of a model whose image tokenizer has codes."""
    tokenizer, dataset = open_tokenizer_and_data(options)
    from openhart.tokenizer.base import CodeTokenizer

    if not isinstance(tokenizer, CodeTokenizer):
        raise UserError(f"{options.kind} decodes codes, and the image tokenizer of this model has none")
    return tokenizer, dataset


def open_pipeline_and_data(options: Namespace) -> tuple[Any, Any]:
    """The pipeline of the model, on the fastest device, and the image folder in its size."""
    require("torchmetrics", "efficientnet_lite_pytorch", extra="eval")
    only = chosen_records(options)
    from openhart.data import open_dataset
    from openhart.evaluation.any_pipeline import check_prompts
    from openhart.pipelines.auto import from_pretrained

    pipeline: Any = from_pretrained(options.model).to(find_device())
    check_prompts(pipeline, options.kind)
    dataset = open_dataset(options.data, pipeline.image_size, only=only)
    if not hasattr(dataset, "all_samples"):
        raise UserError(
            f"{options.kind} chooses its images by their records: give an image folder, not shards"
        )
    return pipeline, dataset


def chosen_records(options: Namespace) -> dict[str, list[str]]:
    """The values of ``--only`` by field."""
    pairs = [text.partition("=") for text in options.only]
    for field, equals, values in pairs:
        if not (field and equals and values):
            raise UsageError("--only is written FIELD=VALUE or FIELD=VALUE,VALUE, as in --only style=noto")
    only: dict[str, list[str]] = {}
    for field, _, values in pairs:
        only.setdefault(field, []).extend(values.split(","))
    return only


def report_of(result: "Result", options: Namespace) -> Report:
    """A result as JSON, with the model and the versions that made it."""
    import torch

    from openhart import __version__

    report = result.to_dict()
    if "model" in options:
        report["made_by"]["model"] = options.model or "packaged"
    report["made_by"] |= {"openhart": __version__, "torch": torch.__version__}
    return report
