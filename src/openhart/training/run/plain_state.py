"""States of a run as data: nested dicts, lists, numbers and tensors in one safetensors file.

The structure around the tensors is JSON in the file's metadata. Reading executes no code.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

STRUCTURE = "structure"
PLAIN = (str, bool, int, float, type(None))


def save_state(state: Any, path: Path) -> None:
    """Write nested dicts (with texts or whole numbers as keys), lists, tuples, numbers, texts and tensors.

    Args:
        state: :func:`load_state` returns it, equal to the bit.
        path: of the file.

    Raises:
        TypeError: if the state holds something else.
        OSError, SafetensorError: if the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = _outline(state, "", tensors)
    save_file(_apart(tensors), path, metadata={STRUCTURE: json.dumps(structure)})


def load_state(path: Path) -> Any:
    """Read what :func:`save_state` wrote; tensors are read into memory, on the CPU.

    Raises:
        OSError, SafetensorError, ValueError, KeyError: if the file is missing or damaged.
    """
    with safe_open(path, "pt") as file:
        structure = json.loads((file.metadata() or {})[STRUCTURE])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    return _filled(structure, tensors)


def _outline(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """The structure of a value as JSON; its tensors are added to ``tensors``, named by their places."""
    if isinstance(value, Tensor):
        name = place or "value"
        while name in tensors:
            name += "'"
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, PLAIN):
        return value
    start = f"{place}." if place else ""
    if isinstance(value, dict):
        if wrong := [key for key in value if type(key) not in (str, int)]:
            raise TypeError(f"a state must have keys of text or whole numbers, got {wrong[0]!r}")
        return {"dict": [[key, _outline(part, f"{start}{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        parts = [_outline(part, f"{start}{index}", tensors) for index, part in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    raise TypeError(f"a state cannot hold {type(value).__name__}")


def _filled(structure: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(structure, list):
        return [_filled(part, tensors) for part in structure]
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_filled(part, tensors) for part in content)
    if kind == "dict":
        return {key: _filled(part, tensors) for key, part in content}
    raise ValueError(f"unknown part {kind!r}")


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and each in memory of its own, as safetensors requires."""
    apart, taken = {}, set()
    for name, tensor in tensors.items():
        ready = tensor.cpu().contiguous()
        memory = ready.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() != ready.nbytes:
            ready = ready.clone(memory_format=torch.contiguous_format)
            memory = ready.untyped_storage()
        taken.add(memory.data_ptr())
        apart[name] = ready
    return apart
