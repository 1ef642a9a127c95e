"""Loading any diffusers pipeline for a measurement: OpenHART's own, SDXL, PixArt-Σ, SD3, Sana and others."""

from pathlib import Path
from typing import Any

import torch

from openhart.errors import UserError, reason
from openhart.pipelines.hart import HartPipeline

OWN = "HartPipeline"


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
    if model is None or _class_of(model) == OWN:
        return HartPipeline.from_pretrained(model, dtype=dtype).to(device)
    from diffusers import DiffusionPipeline

    settings: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype}
    try:
        pipeline = DiffusionPipeline.from_pretrained(model, use_safetensors=True, **settings)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"diffusers cannot load {model}: {reason(error)}") from error
    return pipeline.to(device)


def _class_of(model: str) -> str:
    """The class in a model's index; HartPipeline if there is no such model, because it reports this best."""
    from diffusers import DiffusionPipeline

    if Path(model).is_dir() and not Path(model, "model_index.json").is_file():
        return OWN
    try:
        name: Any = DiffusionPipeline.load_config(model)["_class_name"]
    except (OSError, ValueError, KeyError):
        return OWN
    return str(name[-1] if isinstance(name, list) else name)
