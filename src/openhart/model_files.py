"""Model folders: finding them, reading what they hold, and saying what is wrong with one."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from openhart.errors import UserError, reason
from openhart.hub import fetch
from openhart.loading import count_parameters, read_shapes
from openhart.quiet import quiet_libraries
from openhart.reading import read_json
from openhart.safety import check_index
from openhart.tokenizer.model import HybridTokenizer

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"


def find_model(name: str | Path | None = None, hub: Mapping[str, Any] | None = None) -> Path:
    """The folder of a model.

    Args:
        name: a folder, a hub id ``owner/name`` (it is downloaded), or None for the packaged model.
        hub: how to download: :data:`openhart.loading.HUB_OPTIONS`.

    Raises:
        UserError: there is no such model, or a revision is asked of a folder.
    """
    if name is not None and not isinstance(name, str | Path):
        raise UserError(f"a model is named by a folder or a hub id such as owner/name, got {name!r:.60}")
    if name is None or Path(name).is_dir():
        if (hub or {}).get("revision") is not None:
            raise UserError("a revision goes with a hub id: a folder has none")
        if name is None and not (DEFAULT_MODEL / "model_index.json").is_file():
            raise UserError("this installation carries no default model: name a model folder or a hub id")
        return DEFAULT_MODEL if name is None else Path(name)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)):
        raise UserError(f"no model at {name}: give a model folder or a hub id such as owner/name")
    try:
        return fetch(str(name), hub or {})
    except UserError as error:
        raise UserError(f"no model {name}: there is no such folder, and {error}") from error


def read_index(folder: Path) -> dict[str, Any]:
    """The pipeline's ``model_index.json``, once it is known to name nothing that could run.

    Raises:
        UserError: there is none, it cannot be read, or it may not be loaded.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise UserError(f"{folder} is no model: it has no model_index.json")
    index = read_json(path)
    check_index(folder, index)
    return index


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Silence the libraries, and turn what goes wrong inside into one sentence.

    Raises:
        UserError: instead of whatever a library raised.
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


def load_image_tokenizer(name: str | Path | None = None) -> HybridTokenizer:
    """The image tokenizer of a model, or one that lies in a folder alone.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    folder = find_model(name)
    if (folder / "image_tokenizer").is_dir():
        folder = folder / "image_tokenizer"
    with loading(folder):
        tokenizer: HybridTokenizer = HybridTokenizer.from_pretrained(folder, low_cpu_mem_usage=False)
    tokenizer.eval()
    return tokenizer


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
        if isinstance(value, list) and (shapes := read_shapes(folder / name)):
            count = count_parameters(shapes)
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
