"""Reading released weights: named tensors, mapped from disk rather than loaded."""

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
    """The tensors of one file, ``.safetensors`` or a plain state dict as ``torch.save`` writes it.

    Raises:
        UserError: the file is missing or damaged, or holds anything but named tensors.
    """
    return check_tensors(read_content(path), path)


def check_tensors(content: Any, where: Path | str) -> dict[str, Tensor]:
    """What a file holds, if that is a plain state dict.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{where} must hold a plain state dict: tensors by name")
    return content


def read_content(path: Path, data_classes: Sequence[type] = ()) -> Any:
    """What one file holds, ``.safetensors`` or a pickle as ``torch.save`` writes it.

    Released weights come as pickles too. Here alone they are opened, by torch's unpickler that makes tensors
    and plain values and nothing else (``weights_only``), to be written as safetensors.

    Args:
        path: the file.
        data_classes: classes without behaviour that a pickle may hold beside its tensors, such as
            ``argparse.Namespace``.

    Raises:
        UserError: the file is missing or damaged, or holds objects of other classes.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(data_classes)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # an unpickler that reads damaged data may raise whatever there is
        raise UserError(f"{path} is damaged, or holds more than weights, which is not read") from error


def with_joined_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in which each ``….q``, ``….k`` and ``….v`` became one ``….qkv``, as in our attention."""
    joined = dict(tensors)
    for name in tensors:
        head, dot, kind = name.rpartition(".q.")
        thirds = [f"{head}.{part}.{kind}" for part in "qkv"]
        if dot and all(third in tensors for third in thirds):
            joined[f"{head}.qkv.{kind}"] = torch.cat([joined.pop(third) for third in thirds])
    return joined


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors`` or ``pytorch_model.bin``, whole or in listed shards.

    Raises:
        UserError: there is neither, or a file of them is missing or damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index)
    raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise UserError(f"{index} must name the file of every tensor under weight_map")
    tensors: dict[str, Tensor] = {}
    if strange := [name for name in places.values() if Path(name).name != name]:
        raise UserError(f"{index} names {strange[0]}: the files of a model must be beside it")
    for name in sorted(set(places.values())):
        tensors |= read_tensors(index.parent / name)
    if absent := places.keys() - tensors.keys():
        raise UserError(f"the files that {index} lists lack {_some(absent)}")
    return tensors


class Checkpoint:
    """Tensors of a released model, which all have to find their place in ours.

    Args:
        tensors: by their released names.
        where: what messages call it.
        ignored: pattern of names that carry nothing we need.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: Path | str, ignored: str) -> None:
        self._tensors = {k: v for k, v in tensors.items() if not re.fullmatch(ignored, k)}
        self._left = set(self._tensors)
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise UserError(f"{self.where} lacks {name}")
        return self._tensors[name]

    def take(self, name: str) -> Tensor:
        """A tensor, which from now on counts as placed."""
        self._left.discard(name)
        return self[name]

    def count(self, prefix: str) -> int:
        """How many different numbers follow ``prefix``, as in ``blocks.0.`` and ``blocks.1.``."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for name in self._tensors if (match := pattern.match(name))})

    def fill(self, model: nn.Module, rules: Rules, given: Mapping[str, Tensor] | None = None) -> None:
        """Give a model without weights ours, without copying them.

        Args:
            model: made on the meta device.
            rules: from the model's names to the released ones.
            given: by the model's names, tensors that have no single released counterpart.

        Raises:
            UserError: tensors are missing or have another shape.
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
        placed = {name: tensor.reshape(shapes[name]) for name, tensor in state.items()}
        model.load_state_dict(placed, assign=True)

    def check_all_placed(self) -> None:
        """Make sure that nothing of the released model was left out.

        Raises:
            UserError: tensors we have no place for.
        """
        if self._left:
            raise UserError(f"{self.where} holds what no released model has: {_some(self._left)}")


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [side for side in shape if side != 1]


def _some(names: set[str] | list[str]) -> str:
    shown = sorted(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
