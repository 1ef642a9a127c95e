"""The files of a released VQGAN: one YAML configuration and one checkpoint in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from openhart.checks import Count, Depth, Natural, Width, parse_values
from openhart.conversion.weights import Checkpoint, check_tensors, read_content, with_joined_qkv
from openhart.errors import UserError, require
from openhart.reading import read_text

IGNORED = (
    r"(.*\.)?(loss\..*|colorize|quantize\.used)|permuter\..*|model_ema\..*"
    r"|transformer\.blocks\.\d+\.attn\.mask"
)
TRANSFORMER_CLASS = "Net2NetTransformer"
TOKENIZER_CLASSES = ("VQModel", "GumbelVQ", "VQSegmentationModel", "VQNoDiscModel", "VQModelInterface")
FIRST_STAGE = "__is_first_stage__"


class Callback:
    """Takes the place of a class of Lightning, which checkpoints name without a need."""


DATA_CLASSES = ((Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),)


class ImageConfig(BaseModel):
    """What is used of ``ddconfig``."""

    resolution: Width


class TokenizerConfig(BaseModel):
    """What is used of a tokenizer's ``params``."""

    ddconfig: ImageConfig


class Target(BaseModel):
    """A class and its arguments, as the published program names them."""

    target: str
    params: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The name of the class without its module."""
        return self.target.rpartition(".")[2]


class GptConfig(BaseModel):
    """What is used of ``transformer_config.params``."""

    n_head: Depth
    n_unmasked: Natural = 0


class LabelConfig(BaseModel):
    """What is used of the ``params`` of class labels."""

    n_classes: Count


class StartConfig(BaseModel):
    """What is used of the ``params`` of the condition of an unconditional model."""

    sos_token: Natural = 0


class TransformerConfig(BaseModel):
    """What is used of a transformer's ``params``."""

    transformer_config: Target
    first_stage_config: Target
    cond_stage_config: Target | str
    permuter_config: Target | None = None
    sos_token: Natural = 0
    unconditional: bool = False


@dataclass(frozen=True)
class Release:
    """A released model.

    Attributes:
        config_path: of the YAML file.
        model: its ``model`` section.
        checkpoint: its tensors.
    """

    config_path: Path
    model: Target
    checkpoint: Checkpoint


def read_release(folder: Path) -> Release:
    """Find and read the two files of a release.

    Raises:
        UserError: if one is missing or damaged, or if there are several.
    """
    config_path = _only_file(folder, "configuration", ["*.yaml"], besides="lightning")
    model = parse_values(Target, _read_yaml(config_path), f"{config_path}: model")
    if model.name not in (TRANSFORMER_CLASS, *TOKENIZER_CLASSES):
        raise UserError(f"{config_path} configures {model.target}, which is no VQGAN")
    path = _only_file(folder, "checkpoint", ["last.ckpt"], ["*.ckpt", "*.safetensors"])
    content = read_content(path, DATA_CLASSES)
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    tensors = with_joined_qkv(check_tensors(content, path))
    twice = model.params.get("cond_stage_config") == FIRST_STAGE
    ignored = rf"{IGNORED}|cond_stage_model\..*" if twice else IGNORED
    return Release(config_path, model, Checkpoint(tensors, path, ignored))


def _only_file(folder: Path, what: str, *patterns: list[str], besides: str | None = None) -> Path:
    """The only file of the first patterns that any file fits."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name that of a released VQGAN")
    for some in patterns:
        found = sorted({path for pattern in some for path in folder.rglob(pattern)})
        found = [path for path in found if besides is None or besides not in path.name]
        if len(found) > 1:
            raise UserError(f"{folder} contains several files that may be its {what}: {found[0]}, {found[1]}")
        if found:
            return found[0]
    raise UserError(f"{folder} contains no {what} ({', '.join(patterns[-1])})")


def _read_yaml(path: Path) -> dict[str, Any]:
    """The ``model`` section of a YAML file."""
    require("yaml", extra="train")
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read as YAML") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError(f"{path} must have a section model, with target and params")
    section: dict[str, Any] = content["model"]
    return section
