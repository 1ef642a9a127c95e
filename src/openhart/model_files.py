"""Model folders: finding them, reading their descriptions, and errors of loading in one sentence."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from openhart.checks import listed
from openhart.errors import UserError, reason
from openhart.hub import fetch
from openhart.loading import count_parameters, read_shapes
from openhart.quiet import quiet_libraries
from openhart.reading import read_json
from openhart.safety import check_index
from openhart.tokenizer.base import ImageTokenizer
from openhart.tokenizer.kl import KLAutoencoder
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.vqgan import VqganTokenizer

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"
IMAGE_TOKENIZERS: Mapping[str, type[ImageTokenizer]] = {
    kind.__name__: kind for kind in (HybridTokenizer, VqganTokenizer, KLAutoencoder)
}
"""The classes of image tokenizers by the names in their ``config.json``."""


def find_model(name: str | Path | None = None, hub: Mapping[str, Any] | None = None) -> Path:
    """The local folder of a model.

    Args:
        name: a folder, a hub id ``owner/name`` (which is downloaded), or None for the packaged model.
        hub: arguments of the download, from :data:`openhart.loading.HUB_OPTIONS`.

    Raises:
        UserError: if the model does not exist or cannot be downloaded, or if a folder is given with a
            revision.
    """
    if name is not None and not isinstance(name, str | Path):
        raise UserError(f"a model must be a folder or a hub id such as owner/name, got {name!r:.60}")
    if name is None or Path(name).is_dir():
        if (hub or {}).get("revision") is not None:
            raise UserError("revision needs a hub id: a model in a folder has no revisions")
        if name is None and not (DEFAULT_MODEL / "model_index.json").is_file():
            raise UserError("this installation contains no default model: give a model folder or a hub id")
        return DEFAULT_MODEL if name is None else Path(name)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)):
        raise UserError(f"no model at {name}: give a model folder or a hub id such as owner/name")
    try:
        return fetch(str(name), hub or {})
    except UserError as error:
        raise UserError(f"no model {name}: there is no such folder, and {error}") from error


def read_index(folder: Path) -> dict[str, Any]:
    """The content of a pipeline's ``model_index.json``, checked by :func:`openhart.safety.check_index`.

    Raises:
        UserError: if the file is missing or cannot be read, or if it names classes that may not be loaded.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise UserError(f"{folder} is no model: it has no model_index.json")
    index = read_json(path)
    check_index(folder, index)
    return index


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Silence other libraries within a block, and convert their errors to :class:`UserError`.

    Args:
        name: name of the model in the error message.

    Raises:
        UserError: if loading fails; the message states the reason.
    """
    try:
        with quiet_libraries():
            yield
    except UserError:
        raise
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError,
        SafetensorError,
    ) as error:  # fmt: skip
        raise UserError(f"cannot load the model {name}: {reason(error)}") from error


def load_image_tokenizer(name: str | Path | None = None, **settings: Any) -> ImageTokenizer:
    """Load the image tokenizer of a pipeline of any family, or one that was saved by itself, in evaluation
    mode.

    Args:
        name: as for :func:`find_model`.
        settings: settings of the tokenizer that replace the stored ones.

    Raises:
        UserError: if the model has no image tokenizer, or if it cannot be loaded.
    """
    folder = find_model(name)
    if (folder / "image_tokenizer").is_dir():
        folder = folder / "image_tokenizer"
    kind = IMAGE_TOKENIZERS[tokenizer_class(folder)]
    with loading(folder):
        tokenizer: ImageTokenizer = kind.from_pretrained(folder, low_cpu_mem_usage=False, **settings)
    tokenizer.eval()
    return tokenizer


def tokenizer_class(folder: Path) -> str:
    """The name of an image tokenizer's class, one of :data:`IMAGE_TOKENIZERS`.

    Raises:
        UserError: if the folder has no ``config.json``, or if that of another class.
    """
    path = folder / "config.json"
    name = read_json(path).get("_class_name")
    if name not in IMAGE_TOKENIZERS:
        raise UserError(f"{path} must be of the class {listed(IMAGE_TOKENIZERS)}, not {name!r:.60}")
    return str(name)


@dataclass(frozen=True)
class Part:
    """Description of a part of a model, from its files.

    Attributes:
        name: name of the part in the pipeline.
        kind: name of its class.
        parameters: number of its parameters.
        dtype: dtype of the stored parameters in the notation of safetensors, such as ``F32``; several are
            separated by ``/``.
    """

    name: str
    kind: str
    parameters: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.name:16} {self.kind:20} {self.parameters:>13,} parameters  {self.dtype}"


def read_part(folder: Path, name: str, kind: str) -> Part:
    """Description of the model in a folder.

    Args:
        folder: folder with safetensors files.
        name: name of the part.
        kind: name of its class.

    Raises:
        UserError: if a file is damaged.
    """
    shapes = read_shapes(folder)
    dtypes = "/".join(sorted({dtype for _, dtype in shapes.values()}))
    return Part(name, kind, count_parameters(shapes), dtypes)


def read_parts(folder: Path) -> list[Part]:
    """Descriptions of the parts of a model that have weights in its folder.

    Raises:
        UserError: if a file is missing or damaged.
    """
    parts = [
        read_part(folder / name, name, str(value[1]))
        for name, value in read_index(folder).items()
        if isinstance(value, list)
    ]
    return [part for part in parts if part.parameters]


def read_licence(folder: Path) -> str | None:
    """The licence in the front matter of the model card ``README.md``; None if there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(errors="replace"), re.DOTALL)
    entry = front and re.search(r"^license:\s*(.+)$", front[1], re.MULTILINE)
    return entry[1].strip() if entry else None
