"""Loading any diffusers pipeline for a measurement: OpenHART's own, SDXL, PixArt-Σ, SD3, Sana and others."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch

from openhart.errors import UserError, reason
from openhart.pipelines.auto import from_pretrained
from openhart.pipelines.checks import LAYOUTS

GIVEN_BY_THE_BENCHMARK = (
    "self", "prompt", "class_labels", "generator", "output_type", "return_dict", "num_images_per_prompt",
)  # fmt: skip


def load_any_pipeline(
    model: str | None, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Any:
    """Load a pipeline by the class that its ``model_index.json`` names.

    Args:
        model: folder or hub id; None means the packaged model.
        dtype: type of the weights; None keeps the stored one.
        device: where the pipeline runs.

    Raises:
        UserError: the model cannot be loaded.
    """
    if model is None or _class_of(model) in (None, *LAYOUTS):
        return from_pretrained(model, dtype=dtype).to(device)
    from diffusers import DiffusionPipeline

    settings: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype}
    try:
        pipeline = DiffusionPipeline.from_pretrained(model, use_safetensors=True, **settings)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"diffusers cannot load {model}: {reason(error)}") from error
    return pipeline.to(device)


def _class_of(model: str) -> str | None:
    """The class in a model's index; None if there is no such model, which OpenHART's own loader reports."""
    from diffusers import DiffusionPipeline

    if Path(model).is_dir() and not Path(model, "model_index.json").is_file():
        return None
    try:
        name: Any = DiffusionPipeline.load_config(model)["_class_name"]
    except (OSError, ValueError, KeyError):
        return None
    return str(name[-1] if isinstance(name, list) else name)


def check_prompts(pipeline: Any, benchmark: str) -> None:
    """Refuse a model of ours that takes no prompts.

    Args:
        pipeline: any diffusers pipeline.
        benchmark: what generates from prompts, for the message.

    Raises:
        UserError: if it takes class labels, codes of other images, or nothing.
    """
    if getattr(pipeline, "condition_kind", "text") != "text":
        raise UserError(f"{benchmark} needs a text-conditional model, which takes prompts")


def check_call(pipeline: Any, call: dict[str, Any]) -> None:
    """Refuse arguments that a pipeline's call does not have, or that a benchmark determines.

    Raises:
        UserError: one of them is such an argument.
    """
    known = _arguments(type(pipeline).__call__)
    for name in call:
        if name in GIVEN_BY_THE_BENCHMARK:
            raise UserError(f"the benchmark determines {name}: remove it from --set")
        if name not in known:
            raise UserError(f"{type(pipeline).__name__} has no argument {name}: see its documentation")


def _arguments(function: Callable[..., Any]) -> set[str]:
    """Names of a function's arguments, those of ``**options: Unpack[TypedDict]`` included."""
    names = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            for options in get_args(parameter.annotation):
                names |= options.__annotations__.keys()
        else:
            names.add(parameter.name)
    return names
