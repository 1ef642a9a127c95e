"""The options that choose a model and how it is computed, and the pipeline that they describe."""

from argparse import ArgumentParser, Namespace
from typing import Any

from openhart.cli.device import find_device
from openhart.cli.options import UsageError, add_model, place

COMPUTATION = ("dtype", "optimize", "weights", "lora")
"""Options beside the model that determine an image."""


def add_computing(parser: ArgumentParser) -> None:
    """Add the options."""
    add_model(parser)
    add = parser.add_argument
    add("--lora", type=place, metavar="DIR", help="Folder of a LoRA adapter, as fine-tuning saves it.")
    add(
        "--dtype", choices=["float32", "bfloat16"], default="float32",
        help="Data type of the weights and of the computation (default: float32).",
    )  # fmt: skip
    add(
        "--optimize", choices=["exact", "fast", "fastest"], metavar="LEVEL",
        help="Generate faster: exact gives the same images up to rounding; fast and fastest reduce their "
        "quality, as docs/speed.md states.",
    )  # fmt: skip
    add(
        "--weights", choices=["int8", "fp8"],
        help="Store the weights in 8 bits, which needs less memory and the package torchao.",
    )  # fmt: skip
    add(
        "--device", metavar="DEVICE",
        help="Device to compute on: cpu, cuda, cuda:1, mps or xpu (default: cuda or mps if there is one, "
        "otherwise cpu).",
    )  # fmt: skip


def check_computing(options: Namespace) -> None:
    """Refuse options that exclude each other.

    Raises:
        UsageError: they do.
    """
    if options.optimize and options.weights:
        raise UsageError("give --optimize or --weights, not both")


def load_pipeline(options: Namespace) -> Any:
    """The pipeline of the model, on its device, as the options describe it.

    Raises:
        UserError: it cannot be loaded, or an option does not suit it.
    """
    import torch

    from openhart.pipelines.auto import from_pretrained

    device = find_device(options.device)
    pipeline: Any = from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    if options.lora is not None:
        pipeline.load_lora_weights(options.lora)
    pipeline.to(device)
    if options.optimize:
        pipeline.optimize(options.optimize)
    if options.weights:
        pipeline.quantize(options.weights)
    return pipeline


def computation(options: Namespace) -> dict[str, str]:
    """The values of :data:`COMPUTATION` that are given, for the record of an image."""
    given = {name: getattr(options, name) for name in COMPUTATION}
    return {name: str(value) for name, value in given.items() if value is not None}
