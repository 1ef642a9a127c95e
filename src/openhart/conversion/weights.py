"""Reading of released weights: tensors by name, memory-mapped where the file allows it."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from openhart.conversion.keys import Rules, rename
from openhart.errors import UserError
from openhart.reading import read_json

SHOWN = 3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a plain state dict written by ``torch.save``.

    Raises:
        UserError: if the file is missing or damaged, or if it contains anything else than tensors by name.
    """
    return check_tensors(read_content(path), path)


def check_tensors(content: Any, where: Path | str) -> dict[str, Tensor]:
    """The content of a file, checked to be a plain state dict.

    Args:
        content: the content.
        where: source of the content in the error message, such as a file.

    Raises:
        UserError: if the content is not a dict of tensors.
    """
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{where} must contain a plain state dict: tensors by name")
    return content


def read_content(path: Path, data_classes: Sequence[type | tuple[type, str]] = ()) -> Any:
    """The content of a safetensors file, or of a pickle written by ``torch.save``.

    Many released weights are pickles. This is the only function that opens them, in order to convert them to
    safetensors. It uses torch's restricted unpickler, which creates only tensors and plain values
    (``weights_only``).

    Args:
        path: the file.
        data_classes: further classes, without behaviour, that a pickle may contain, such as
            ``argparse.Namespace``; or a class and the full name of the one for which it stands in.

    Raises:
        UserError: if the file is missing or damaged, or if it contains objects of other classes.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(data_classes)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # unpickling damaged data may raise any exception
        raise UserError(f"{path} is damaged, or contains more than weights, which is not read") from error


def with_joined_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the tensors ``….q``, ``….k`` and ``….v`` to one ``….qkv``, which our attention uses."""
    joined = dict(tensors)
    for name in tensors:
        head, dot, kind = name.rpartition(".q.")
        thirds = [f"{head}.{part}.{kind}" for part in "qkv"]
        if dot and all(third in tensors for third in thirds):
            joined[f"{head}.qkv.{kind}"] = torch.cat([joined.pop(third) for third in thirds])
    return joined


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors`` or ``pytorch_model.bin``, in one file or in shards with an index.

    Raises:
        UserError: if neither exists, or if a file is missing or damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index)
    raise UserError(f"{folder} contains neither model.safetensors nor pytorch_model.bin")


def _read_shards(index: Path) -> dict[str, Tensor]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise UserError(f"{index} must name the file of every tensor under weight_map")
    tensors: dict[str, Tensor] = {}
    if outside := [name for name in files.values() if Path(name).name != name]:
        raise UserError(f"{index} names {outside[0]}: the files of a model must be in the same folder")
    for name in sorted(set(files.values())):
        tensors |= read_tensors(index.parent / name)
    if missing := files.keys() - tensors.keys():
        raise UserError(f"the files that {index} lists lack {_some(missing)}")
    return tensors


class Checkpoint:
    """Tensors of a released model; every tensor must be used in one of our models.

    Args:
        tensors: tensors by their released names.
        where: name of the checkpoint in error messages.
        ignored: regular expression of the names of tensors that our models do not need.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: Path | str, ignored: str) -> None:
        self._tensors = {k: v for k, v in tensors.items() if not re.fullmatch(ignored, k)}
        self._unused = set(self._tensors)
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise UserError(f"{self.where} lacks {name}")
        return self._tensors[name]

    def take(self, name: str) -> Tensor:
        """A tensor, which counts as used from now on.

        Raises:
            UserError: if the checkpoint has no tensor of this name.
        """
        self._unused.discard(name)
        return self[name]

    def count(self, prefix: str) -> int:
        """Number of different indices after ``prefix``: 2 for ``blocks.0.…`` and ``blocks.1.…``."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for name in self._tensors if (match := pattern.match(name))})

    def fill(self, model: nn.Module, rules: Rules, given: Mapping[str, Tensor] | None = None) -> None:
        """Assign the tensors to a model, without copying them.

        Args:
            model: a model on the meta device.
            rules: rules from the model's names to the released ones.
            given: tensors without a single released counterpart, by the model's names.

        Raises:
            UserError: if tensors are missing or have another shape.
        """
        given = given or {}
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        sources = {name: rename(name, rules) for name in shapes if name not in given}
        if missing := [source for source in sources.values() if source not in self]:
            raise UserError(f"{self.where} lacks {_some(missing)}")
        state = {name: self.take(source) for name, source in sources.items()} | dict(given)
        wrong = [
            f"{sources.get(name, name)} is {tuple(tensor.shape)}, not {tuple(shapes[name])}"
            for name, tensor in state.items()
            if _without_ones(tensor.shape) != _without_ones(shapes[name])
        ]
        if wrong:
            raise UserError(f"{self.where} does not fit its configuration: {_some(wrong)}")
        reshaped = {name: tensor.reshape(shapes[name]) for name, tensor in state.items()}
        model.load_state_dict(reshaped, assign=True)

    def check_all_used(self) -> None:
        """Check that every tensor of the released model is used.

        Raises:
            UserError: if tensors were not used.
        """
        if self._unused:
            raise UserError(
                f"{self.where} contains tensors that no released model has: {_some(self._unused)}"
            )


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [side for side in shape if side != 1]


def _some(names: set[str] | list[str]) -> str:
    shown = sorted(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
