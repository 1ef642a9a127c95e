"""Safety of model folders: they may contain only data, so that loading never runs code from them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openhart.errors import UserError
from openhart.reading import parse_any_json, read_text

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
LABEL_ENCODER = {("openhart.conditioning.label", "LabelEncoder")}
OWN_CLASSES = {
    "HartPipeline": {
        "image_tokenizer": {("openhart.tokenizer.model", "HybridTokenizer")},
        "transformer": {("openhart.transformer.model", "HartTransformer")},
        "residual_head": {
            ("openhart.residual.heads", "TokenResidualHead"),
            ("openhart.residual.heads", "WideResidualHead"),
        },
        "label_encoder": LABEL_ENCODER,
    },
    "MarPipeline": {
        "image_tokenizer": {("openhart.tokenizer.kl", "KLAutoencoder")},
        "transformer": {("openhart.transformer.masked", "MaskedTransformer")},
        "diffusion_head": {("openhart.residual.heads", "TokenResidualHead")},
        "label_encoder": LABEL_ENCODER,
    },
    "VqganPipeline": {
        "image_tokenizer": {("openhart.tokenizer.vqgan", "VqganTokenizer")},
        "transformer": {("openhart.transformer.raster", "RasterTransformer")},
        "condition_tokenizer": {("openhart.tokenizer.vqgan", "VqganTokenizer")},
        "label_encoder": LABEL_ENCODER,
    },
}
"""Per pipeline and part, the modules and classes of ours that its ``model_index.json`` may name."""
TEXT_PARTS = ("text_encoder", "text_tokenizer")
LIBRARIES = ("transformers", "diffusers")
CODE_SETTINGS = ("auto_map", "custom_pipelines", "trust_remote_code")


def refuse_code(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of ``from_pretrained`` that would run code from a model folder.

    Raises:
        UserError: if ``custom_pipeline`` or ``trust_remote_code`` is set.
    """
    for name in ("custom_pipeline", "trust_remote_code"):
        if arguments.get(name):
            raise UserError(f"{name} cannot be used: code in a model folder is never run")


def check_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Check that a pipeline names only classes of OpenHART, transformers and diffusers, and that the folders
    of its parts contain only data.

    Args:
        folder: folder of the pipeline.
        index: content of its ``model_index.json``.

    Raises:
        UserError: if another class is named, or if a part contains Python files, pickles or settings that
            would run code.
    """
    path = folder / "model_index.json"
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in OWN_CLASSES:
        raise UserError(f"{path} must be of the class {' or '.join(OWN_CLASSES)}, not {kind!r}")
    own = OWN_CLASSES[kind]
    for name, value in index.items():
        if name not in own and name not in TEXT_PARTS:
            continue
        if not isinstance(value, list) or len(value) != 2:
            raise UserError(f"{path}: {name} must name a library and a class, got {value!r}")
        if value == [None, None]:
            continue
        if not (tuple(value) in own[name] if name in own else _is_allowed_for_text(value)):
            raise UserError(
                f"{path}: {name} may not be {value[1]!r} of {value[0]!r}; only openhart's own classes and "
                f"those of {' and '.join(LIBRARIES)} are loaded"
            )
        if (folder / name / f"{value[0]}.py").exists():
            raise UserError(f"{folder / name} contains Python code, which is never run: remove it")
        if (folder / name).is_dir():
            check_part_folder(folder / name)


def _is_allowed_for_text(value: list[Any]) -> bool:
    library, kind = value
    return library in LIBRARIES and isinstance(kind, str) and re.fullmatch(r"[A-Za-z]\w*", kind) is not None


def check_part_folder(folder: Path) -> None:
    """Check that the folder of a model or a text tokenizer contains only data.

    Raises:
        UserError: if its weights are pickled, if it is an adapter, or if a config would run code.
    """
    refuse_pickles(folder)
    for path in folder.iterdir():
        if path.name == "adapter_config.json":
            raise UserError(f"{folder} is an adapter, not a complete model: merge it into its model first")
        if path.name.endswith("config.json"):
            check_settings_safe(parse_any_json(read_text(path), path), str(path))


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose weights are pickled; pickles beside safetensors files are ignored.

    Raises:
        UserError: if the folder contains a pickle and no safetensors file.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickled = [name for name in names if name.lower().endswith(PICKLES)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"{folder} contains {pickled[0]}, a pickle, which can run code and is not opened: "
            "convert it to safetensors"
        )


def check_settings_safe(settings: Any, where: str) -> None:
    """Check that a config requires neither Python code of the model nor a kernel from the hub.

    Args:
        settings: the config, a JSON value of any depth.
        where: source of the config in the error message, such as a file.

    Raises:
        UserError: if the config names such code.
    """
    if isinstance(settings, list):
        for value in settings:
            check_settings_safe(value, where)
    if not isinstance(settings, dict):
        return
    for name, value in settings.items():
        hub_kernel = isinstance(name, str) and "implementation" in name and "/" in json.dumps(value)
        if (name in CODE_SETTINGS and value) or hub_kernel:
            raise UserError(f"{where} requires code by {name}, which is never run: remove the setting")
        check_settings_safe(value, where)
