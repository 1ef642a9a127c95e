"""Model folders: finding them, reading what they hold, and saying what is wrong with one."""

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from openhart.checksums import check_checksums
from openhart.errors import UserError
from openhart.safety import check_index, refuse_pickles
from openhart.tokenizer.model import HybridTokenizer

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_SETTINGS = (  # peft imports a module that another of its settings names
    "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "lora_dropout", "bias", "lora_bias",
    "use_rslora", "use_dora",
)  # fmt: skip
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]


def find_model(name: str | Path | None = None) -> Path:
    """The folder of a model.

    Args:
        name: a folder, a hub id ``owner/name`` (it is downloaded), or None for the packaged model.

    Raises:
        UserError: there is no such model.
    """
    if name is None:
        if not (DEFAULT_MODEL / "model_index.json").is_file():
            raise UserError("this installation carries no default model: name a model folder or a hub id")
        return DEFAULT_MODEL
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)):
        raise UserError(f"no model at {name}: give a model folder or a hub id such as owner/name")
    return _download(str(name))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED))
    except (OSError, ValueError) as error:
        raise UserError(
            f"no model {name}: there is no such folder, and the hub did not give one of that name "
            f"({_sentence(error)})"
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """The pipeline's ``model_index.json``, once it is known to name nothing that could run.

    Raises:
        UserError: there is none, it cannot be read, or it may not be loaded.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise UserError(f"{folder} is no model: it has no model_index.json")
    try:
        index = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {_sentence(error)}") from error
    if not isinstance(index, dict):
        raise UserError(f"{path} must hold a JSON object that names the model's parts")
    check_index(folder, index)
    return index


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Silence the libraries, and turn what goes wrong inside into one sentence.

    Raises:
        UserError: instead of whatever a library raised.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError,
        SafetensorError,
    ) as error:  # fmt: skip
        raise UserError(f"cannot load the model {name}: {_sentence(error)}") from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
        for library in shown:
            library.enable_progress_bar()


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


def check_part(folder: Path, module: nn.Module) -> None:
    """Compare the names in a part's files with the module that was loaded from them.

    Raises:
        UserError: the config has a setting the module does not know, or the files lack tensors of
            the module or hold others.
    """
    known = {*inspect.signature(type(module).__init__).parameters, "quantization_config"}
    settings = json.loads((folder / "config.json").read_text())
    unknown = [name for name in settings if name not in known and not name.startswith("_")]
    if unknown:
        raise UserError(f"{folder / 'config.json'} has an unknown setting {unknown[0]}")
    if getattr(module, "quantization_method", None) is not None:
        return
    stored, wanted = set(_shapes(folder)), set(module.state_dict())
    if missing := sorted(wanted - stored):
        raise UserError(
            f"the weights in {folder} do not fit its config: {len(missing)} tensors are missing, "
            f"such as {missing[0]}"
        )
    if extra := sorted(stored - wanted):
        raise UserError(
            f"the weights in {folder} do not fit its config: {len(extra)} tensors are not in the "
            f"model, such as {extra[0]}"
        )


def _shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every tensor in a folder's weight files, read off their headers.

    Raises:
        UserError: a file is broken.
    """
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    tensor = file.get_slice(key)
                    shapes[key] = (tuple(tensor.get_shape()), tensor.get_dtype())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is broken or cut short: {_sentence(error)}") from error
    return shapes


def load_image_tokenizer(name: str | Path | None = None) -> HybridTokenizer:
    """The image tokenizer of a model, or one that lies in a folder alone.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    folder = find_model(name)
    if (folder / "image_tokenizer").is_dir():
        folder = folder / "image_tokenizer"
    with loading(folder):
        _shapes(folder)
        tokenizer = HybridTokenizer.from_pretrained(folder, low_cpu_mem_usage=False)
        check_part(folder, tokenizer)
    return tokenizer.eval()


def load_lora(transformer: Any, folder: str | Path) -> None:
    """Put a LoRA (arXiv 2106.09685) that ``openhart train generator`` saved on a model's transformer.

    Args:
        transformer: the pipeline's; changed in place.
        folder: where ``pytorch_lora_weights.safetensors`` lies.

    Raises:
        UserError: there is none, it is damaged, peft is missing, or it was made for another model.
    """
    path = Path(folder) / LORA_FILE
    if not path.is_file():
        if path.parent.is_dir():
            refuse_pickles(path.parent)
        raise UserError(f"no LoRA in {folder}: it has no {LORA_FILE}")
    if find_spec("peft") is None:
        raise UserError("LoRA needs peft: pip install 'openhart[lora]'")
    with loading(folder):
        check_checksums(path.parent)
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        settings = {name: told[name] for name in LORA_SETTINGS if name in told}
        tensors = load_file(path)
        if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
            raise UserError(f"{path} is broken: {broken[0]} has values that are NaN or infinite")
        transformer.load_lora_adapter(tensors, prefix=None, metadata=settings or None)


@dataclass(frozen=True)
class Part:
    """A part of a model, as its files tell.

    Attributes:
        name: what the pipeline calls it.
        kind: its class.
        parameters: how many numbers it holds.
        dtype: the dtype they are stored in, as safetensors names it.
    """

    name: str
    kind: str
    parameters: int
    dtype: str


def read_parts(folder: Path) -> list[Part]:
    """The parts of a model that have weights in its folder.

    Raises:
        UserError: files that are missing or broken.
    """
    parts = []
    for name, value in read_index(folder).items():
        if isinstance(value, list) and (shapes := _shapes(folder / name)):
            count = sum(prod(shape) for shape, _ in shapes.values())
            dtypes = "/".join(sorted({dtype for _, dtype in shapes.values()}))
            parts.append(Part(name, str(value[1]), count, dtypes))
    return parts


def read_licence(folder: Path) -> str | None:
    """The licence that the model card's front matter names, if there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(errors="replace"), re.DOTALL)
    found = front and re.search(r"^license:\s*(.+)$", front[1], re.MULTILINE)
    return found[1].strip() if found else None
