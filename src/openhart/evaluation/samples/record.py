"""The record of a sample folder: everything that determines its images, so that settings never mix."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openhart.atomic import written_whole
from openhart.errors import UserError
from openhart.evaluation.samples.layouts import Plan
from openhart.reading import read_json

RECORD = "samples.json"
FORMAT = 1
PACKAGES = ("openhart", "torch", "diffusers", "transformers", "pillow")
PLAIN = (str, int, float, bool, type(None), list, tuple)


def describe(
    pipeline: Any, model: str, plan: Plan, call: Mapping[str, Any], output: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe how images are made.

    Args:
        pipeline: a diffusers pipeline.
        model: folder or hub id of the model.
        plan: the benchmark's images.
        call: arguments of the pipeline call that differ from its defaults.
        output: further settings that change the images: batch size, rounding and file type.
    """
    return {
        "format": FORMAT,
        "benchmark": plan.benchmark,
        "images": plan.count,
        "prompts": dict(plan.prompts),
        "seed": plan.seed,
        "seeds": plan.seeds,
        **output,
        "model": model,
        "pipeline": type(pipeline).__name__,
        "weights_sha256": hash_weights(pipeline),
        "precision": _dtypes(pipeline),
        "device": torch.device(getattr(pipeline, "device", "cpu")).type,
        "sampling": call_settings(pipeline, call),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def hash_weights(pipeline: Any) -> str:
    """SHA-256 of all weights of a pipeline's models: names, types, shapes and values."""
    found = hashlib.sha256()
    for part, module in _models(pipeline).items():
        for name, tensor in sorted(module.state_dict().items()):
            if isinstance(tensor, torch.Tensor):
                found.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def call_settings(pipeline: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a pipeline call: the given ones and the defaults of the pipeline and its scheduler."""
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    settings: dict[str, Any] = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty and isinstance(parameter.default, PLAIN)
    }
    settings |= call
    if hasattr(pipeline, "sampling_settings"):
        own = asdict(pipeline.sampling_settings())
        settings |= {name: call.get(name, value) for name, value in own.items()}
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is not None:
        settings["scheduler"] = {"class": type(scheduler).__name__, **scheduler.config}
    stored: dict[str, Any] = json.loads(json.dumps(settings, sort_keys=True, default=repr))
    return stored


def start_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a new folder, or check that an existing folder was made in the same way.

    Raises:
        UserError: the folder was made with other settings, or it has other content.
    """
    path = folder / RECORD
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty and has no {RECORD}: give a new folder for the images")
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    stored = read_json(path)
    if difference := _difference(stored, json.loads(json.dumps(record))):
        name, before, now = difference
        raise UserError(
            f"the images in {folder} were made with other settings ({name} is {before} there and {now} now): "
            "give a new folder, or the same settings"
        )


def _difference(before: Any, now: Any, name: str = "") -> tuple[str, str, str] | None:
    """Name and both values of the first setting that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*now, *before]):
            inside = _difference(before.get(key), now.get(key), f"{name}.{key}" if name else key)
            if inside is not None:
                return inside
        return None
    return None if before == now else (name, f"{before!r:.40}", f"{now!r:.40}")


def _models(pipeline: Any) -> dict[str, nn.Module]:
    parts = getattr(pipeline, "components", {})
    return {name: part for name, part in sorted(parts.items()) if isinstance(part, nn.Module)}


def _dtypes(pipeline: Any) -> dict[str, str]:
    dtypes = {}
    for name, module in _models(pipeline).items():
        first = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), None)
        dtypes[name] = str(first).removeprefix("torch.")
    return dtypes


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
