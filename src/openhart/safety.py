"""What a folder from elsewhere may hold and name: data, none of which is imported or unpickled."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openhart.errors import UserError
from openhart.reading import parse_any_json, read_text

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
OWN_CLASSES = {
    "image_tokenizer": {("openhart.tokenizer.model", "HybridTokenizer")},
    "transformer": {("openhart.transformer.model", "HartTransformer")},
    "residual_head": {
        ("openhart.residual.heads", "TokenResidualHead"),
        ("openhart.residual.heads", "WideResidualHead"),
    },
    "label_encoder": {("openhart.conditioning.label", "LabelEncoder")},
}
TEXT_PARTS = ("text_encoder", "text_tokenizer")
LIBRARIES = ("transformers", "diffusers")
CODE_SETTINGS = ("auto_map", "custom_pipelines", "trust_remote_code")


def refuse_code(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of ``from_pretrained`` under which code that a model brings would run.

    Raises:
        UserError: one is given.
    """
    for name in ("custom_pipeline", "trust_remote_code"):
        if arguments.get(name):
            raise UserError(f"{name} cannot be used: code that a model brings is never run")


def check_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Make sure that a pipeline's ``model_index.json`` names only our classes and those of transformers and
    diffusers, and that its parts hold only data, before any of it is loaded.

    Args:
        folder: of the pipeline.
        index: what the file says.

    Raises:
        UserError: they do not.
    """
    path = folder / "model_index.json"
    if (kind := index.get("_class_name")) != "HartPipeline":
        raise UserError(f"{path} must be of the class HartPipeline, not {kind!r}")
    for name, value in index.items():
        if name not in OWN_CLASSES and name not in TEXT_PARTS:
            continue
        if not isinstance(value, list) or len(value) != 2:
            raise UserError(f"{path}: {name} must name a library and a class, got {value!r}")
        if value == [None, None]:
            continue
        if not _may_be(name, value):
            raise UserError(
                f"{path}: {name} may not be {value[1]!r} of {value[0]!r}; only openhart's own classes and "
                f"those of {' and '.join(LIBRARIES)} are loaded"
            )
        if (folder / name / f"{value[0]}.py").exists():
            raise UserError(f"{folder / name} brings Python code of its own, which is never run: remove it")
        if (folder / name).is_dir():
            check_part_folder(folder / name)


def _may_be(name: str, value: list[Any]) -> bool:
    if name in OWN_CLASSES:
        return tuple(value) in OWN_CLASSES[name]
    library, kind = value
    return library in LIBRARIES and isinstance(kind, str) and re.fullmatch(r"[A-Za-z]\w*", kind) is not None


def check_part_folder(folder: Path) -> None:
    """Make sure that a folder with a model or a tokenizer holds data.

    Raises:
        UserError: its weights are pickled, or a config of it asks for code.
    """
    refuse_pickles(folder)
    for path in folder.iterdir():
        if path.name == "adapter_config.json":
            raise UserError(f"{folder} is an adapter of another model: merge it into that model first")
        if path.name.endswith("config.json"):
            check_settings_safe(parse_any_json(read_text(path), path), str(path))


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose weights are pickled; beside safetensors, pickles are passed over.

    Raises:
        UserError: they are.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickled = [name for name in names if name.lower().endswith(PICKLES)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"{folder} holds {pickled[0]}, a pickle, which can run code and is not opened: "
            "convert it to safetensors"
        )


def check_settings_safe(settings: Any, where: str) -> None:
    """Make sure that a config does not ask for code: its own, or a kernel from the hub.

    Args:
        settings: the config, JSON of any depth.
        where: what the message calls it.

    Raises:
        UserError: it does.
    """
    if isinstance(settings, list):
        for value in settings:
            check_settings_safe(value, where)
    if not isinstance(settings, dict):
        return
    for name, value in settings.items():
        fetched = isinstance(name, str) and "implementation" in name and "/" in json.dumps(value)
        if (name in CODE_SETTINGS and value) or fetched:
            raise UserError(f"{where} asks for code by {name}, which is never run: remove the setting")
        check_settings_safe(value, where)
