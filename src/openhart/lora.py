"""LoRA (arXiv 2106.09685) for the transformer, by peft: low-rank adapters of its linear maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from openhart.checksums import check_checksums, write_checksums
from openhart.errors import UserError, reason, require
from openhart.model_files import loading
from openhart.reading import parse_json
from openhart.safety import refuse_pickles
from openhart.transformer.block import Block
from openhart.transformer.families import AnyTransformer

FILE = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
SETTINGS = (  # no others are read from a file: one of them names a Python module that peft would import
    "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "lora_dropout", "bias", "lora_bias",
    "use_rslora", "use_dora",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """A LoRA read from a file.

    Attributes:
        tensors: the matrices, by their names within the transformer.
        settings: settings of peft, such as rank and alpha; if empty, they are inferred from the matrices.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def require_peft() -> None:
    """Check that peft is installed, and register our transformers in diffusers for adapter weights.

    Raises:
        UserError: if peft is not installed.
    """
    require("peft", extra="lora")
    from diffusers.loaders import peft as loader

    # diffusers expands adapter weights by a private table of models (tested with diffusers 0.38 to 0.42)
    for kind in get_args(AnyTransformer):
        loader._SET_ADAPTER_SCALE_FN_MAPPING.setdefault(kind.__name__, lambda _, weights: weights)


def add_lora(
    transformer: AnyTransformer, rank: int, alpha: float, targets: Sequence[str] | None = None
) -> None:
    """Freeze a transformer and add trainable adapters, which start at zero, so that its output is unchanged.

    Args:
        transformer: changed in place.
        rank: rank r of each adapter.
        alpha: α; the output of an adapter is scaled by α / r.
        targets: names of linear maps, or ends of their names, such as ``qkv`` or ``blocks.0.mlp.up``; None
            for all linear maps of attention and MLPs.

    Raises:
        UserError: if peft is missing, or if a target does not exist or is not a linear map.
    """
    require_peft()
    from peft import LoraConfig

    linear = _linear_maps(transformer)
    for target in targets or ():
        matches = [
            module
            for name, module in transformer.named_modules()
            if name == target or name.endswith(f".{target}")
        ]
        if not matches:
            raise UserError(f"lora.targets: the transformer has no module {target}")
        if not all(isinstance(module, nn.Linear) for module in matches):
            raise UserError(f"lora.targets: {target} is no linear map; {linear[0]} is one")
    transformer.requires_grad_(False)
    scale: Any = alpha  # peft scales by a fraction as well
    chosen = linear if targets is None else list(targets)
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules=chosen)
    try:
        transformer.add_adapter(config)
    except ValueError as error:
        raise UserError(f"lora.targets: {reason(error)}") from error


def save_lora(transformer: AnyTransformer, folder: Path, adapter_name: str = "default") -> None:
    """Write one adapter, without the transformer's weights, as :func:`read_lora` reads it.

    Args:
        transformer: a transformer with adapters.
        folder: folder of the file :data:`FILE`.
        adapter_name: name of the adapter.

    Raises:
        UserError: if the transformer has no adapter of this name.
        OSError: if the folder cannot be written.
    """
    if adapter_name not in getattr(transformer, "peft_config", {}):
        raise UserError(f"there is no adapter {adapter_name}: use the name of a loaded or trained adapter")
    transformer.save_lora_adapter(folder, adapter_name=adapter_name)
    write_checksums(folder)


def read_lora(folder: str | Path, weight_name: str = FILE) -> Adapter:
    """Read an adapter from a folder.

    Args:
        folder: a folder written by ``openhart train generator`` or ``save_lora_weights``.
        weight_name: name of the file in the folder.

    Raises:
        UserError: if the file is missing, pickled or damaged, or if a value is NaN or infinite.
    """
    path = Path(folder) / weight_name
    if not path.is_file():
        if path.parent.is_dir():
            refuse_pickles(path.parent)
        raise UserError(f"no LoRA in {folder}: the file {weight_name} is missing")
    with loading(folder):
        check_checksums(path.parent)
        with safe_open(path, "pt") as file:
            stored = parse_json((file.metadata() or {}).get("lora_adapter_metadata", "{}"), path)
        tensors = load_file(path)
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise UserError(f"{path} is damaged: {broken[0]} has values that are NaN or infinite")
    return Adapter(_without_prefix(tensors), _known_settings(stored))


def adapter_from_tensors(tensors: Mapping[str, Tensor]) -> Adapter:
    """An adapter from its matrices; their names may begin with ``transformer.``."""
    return Adapter(_without_prefix(tensors), {})


def attach_lora(
    transformer: AnyTransformer, adapter: Adapter, adapter_name: str | None = None, **options: Any
) -> None:
    """Add an adapter to a transformer and make it the active one.

    Args:
        transformer: changed in place.
        adapter: matrices and settings.
        adapter_name: a new name; None for ``default_0``, ``default_1`` …
        options: further arguments of diffusers' ``load_lora_adapter``.

    Raises:
        UserError: if peft is missing, if an adapter of this name exists, or if the adapter does not fit the
            transformer.
    """
    require_peft()
    if adapter_name is not None and adapter_name in getattr(transformer, "peft_config", {}):
        raise UserError(f"an adapter {adapter_name} exists already: choose another adapter_name")
    with loading("adapter"):
        transformer.load_lora_adapter(
            adapter.tensors,
            prefix=None,
            metadata=adapter.settings or None,
            adapter_name=adapter_name,
            **options,
        )


def load_lora(transformer: AnyTransformer, folder: str | Path) -> None:
    """Read an adapter from a folder and add it to a transformer, which is changed in place.

    Raises:
        UserError: if the file is missing or damaged, if peft is missing, or if the adapter does not fit the
            transformer.
    """
    attach_lora(transformer, read_lora(folder))


def merge_adapters(transformer: AnyTransformer) -> None:
    """Add the active adapters to the weights that they adapt, and remove all adapters."""
    if not getattr(transformer, "peft_config", None):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            transformer.set_submodule(name, module.get_base_layer())


def _linear_maps(transformer: AnyTransformer) -> list[str]:
    """Names of the linear maps of attention and MLPs in all blocks."""
    return [
        f"{name}.{inner}"
        for name, block in transformer.named_modules()
        if isinstance(block, Block)
        for inner, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]


def _without_prefix(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in named.items()}


def _known_settings(stored: Any) -> dict[str, Any]:
    """The stored settings that are passed on to peft."""
    if not isinstance(stored, dict):
        return {}
    named = _without_prefix(stored)
    return {name: named[name] for name in SETTINGS if name in named}
