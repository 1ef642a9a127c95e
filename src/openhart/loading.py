"""Loading a model: unknown arguments are refused, and files are checked before weights are loaded."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from pathlib import Path
from typing import Any

import diffusers.utils
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from openhart.checks import check_settings, listed
from openhart.checksums import check_checksums, warn_of_changes
from openhart.errors import UserError, reason
from openhart.reading import read_json
from openhart.safety import check_part_folder, refuse_code

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
LOADING_OPTIONS = (
    "variant", "use_safetensors", "low_cpu_mem_usage", "device_map", "max_memory", "offload_folder",
    "offload_state_dict", "quantization_config", "disable_mmap",
)  # fmt: skip
GENERIC_OPTIONS = ("use_flashpack",)  # diffusers' generic loader passes it to every part
MODEL_OPTIONS = ("dtype", "torch_dtype", "subfolder", "ignore_mismatched_sizes", "output_loading_info")
DTYPE_ARGUMENT = "dtype" if hasattr(diffusers.utils, "_resolve_dtype") else "torch_dtype"
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}

Shapes = dict[str, tuple[tuple[int, ...], str]]

_within_pipeline: ContextVar[bool] = ContextVar("_within_pipeline", default=False)


def parse_dtype(value: Any) -> torch.dtype | None:
    """A torch dtype from itself or from its name, such as ``"bfloat16"``; None stays None.

    Raises:
        UserError: if the value is not one of :data:`DTYPES`.
    """
    name = str(value).removeprefix("torch.")
    if value is None or (isinstance(value, str | torch.dtype) and name in DTYPES):
        return None if value is None else DTYPES[name]
    raise UserError(f"dtype must be {listed(list(DTYPES))}, got {value!r:.60}")


def check_options(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an argument that has no effect.

    Args:
        owner: name of the function in the error message.
        given: names of the arguments.
        known: names of the arguments that have an effect.

    Raises:
        UserError: if an argument is not one of the known ones.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(f"{owner} takes no {name}; it takes {', '.join(sorted(known))}")


def check_files(options: Mapping[str, Any]) -> None:
    """Accept only safetensors files and valid variant names.

    Args:
        options: arguments of ``from_pretrained`` or ``save_pretrained``.

    Raises:
        UserError: if ``variant`` is not a text, or if another file format is requested.
    """
    variant = options.get("variant")
    if variant is not None and not isinstance(variant, str):
        raise UserError(f"variant must be a text such as fp16, got {variant!r:.60}")
    if options.get("use_flashpack"):
        raise UserError("use_flashpack must be False: weights are read from safetensors files only")
    for name in ("use_safetensors", "safe_serialization"):
        if options.get(name, True) not in (True, None):
            raise UserError(
                f"{name} must be True: pickled weights can run code, so they are neither read nor written"
            )


@contextmanager
def loading_parts() -> Iterator[None]:
    """Within the block, models accept the further arguments that diffusers passes to a pipeline's parts."""
    token = _within_pipeline.set(True)
    try:
        yield
    finally:
        _within_pipeline.reset(token)


class CheckedLoading:
    """Mixin of a model whose ``from_pretrained`` checks arguments, settings, and the weights' names, shapes
    and values."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load the model.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            kwargs: as for :meth:`diffusers.ModelMixin.from_pretrained`; settings of the model replace the
                stored ones.

        Raises:
            UserError: if an argument has no effect, if the settings are invalid, or if the weights are
                missing, pickled, damaged, not finite or do not fit the settings.
        """
        settings = list(cls.__init__.settings.model_fields)  # type: ignore[attr-defined]
        if not _within_pipeline.get():
            known = (*HUB_OPTIONS, *LOADING_OPTIONS, *MODEL_OPTIONS, *GENERIC_OPTIONS, *settings)
            check_options(f"{cls.__name__}.from_pretrained", kwargs, known)
        check_files(kwargs)
        refuse_code(kwargs)
        for name in {"dtype", "torch_dtype"} & kwargs.keys():
            value = kwargs.pop(name)
            kwargs[DTYPE_ARGUMENT] = value if isinstance(value, dict) else parse_dtype(value)
        folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
        changed: list[Path] = []
        if Path(pretrained_model_name_or_path).is_dir() and not folder.is_dir():
            raise UserError(f"there is no folder {folder}: check subfolder")
        if folder.is_dir():
            check_part_folder(folder)
            changed = check_checksums(folder)
            given = {name: kwargs[name] for name in settings if name in kwargs}
            check_folder(cls, folder, given, kwargs.get("variant"))
        kwargs["use_safetensors"] = True
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        check_finite(loaded[0] if isinstance(loaded, tuple) else loaded, folder)
        warn_of_changes(changed)
        return loaded


def check_folder(
    kind: type, folder: Path, given: Mapping[str, Any] | None = None, variant: str | None = None
) -> None:
    """Compare the weight files of a model folder with its config; only headers are read.

    The tensors of quantized weights are not compared.

    Args:
        kind: the model's class.
        folder: folder with ``config.json`` and safetensors files.
        given: settings that replace the stored ones.
        variant: variant of the files, such as ``fp16`` for ``….fp16.safetensors``; None for all files.

    Raises:
        UserError: if a setting is invalid, or if tensors are missing, unknown or of another shape.
    """
    stored = read_config(folder)
    settings = check_settings(kind, {**stored, **(given or {})}, str(folder / "config.json"))
    shapes = read_shapes(folder, variant)
    if not shapes:
        raise UserError(f"there are no weights in {folder}: it must contain files that end in .safetensors")
    quantized = read_json(folder / "config.json").get("quantization_config")
    if quantized is not None and not isinstance(quantized, dict):
        raise UserError(f"{folder / 'config.json'}: quantization_config must be a mapping of names to values")
    if quantized is not None:
        return
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in kind(**settings).state_dict().items()}
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    missing, extra = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    differing = [name for name, shape in expected.items() if name in shapes and shapes[name][0] != shape]
    for names, problem in ((missing, "are missing"), (extra, "are not in the model")):
        if names:
            raise UserError(
                f"the weights in {folder} do not fit its config: {len(names)} tensors {problem}, such as "
                f"{names[0]}"
            )
    if differing:
        name = differing[0]
        raise UserError(
            f"the weights in {folder} do not fit its config: {name} is {_sides(shapes[name][0])}, "
            f"not {_sides(expected[name])}"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The settings in a model's ``config.json``, without the entries that diffusers adds.

    Raises:
        UserError: if the file is missing, or if it is not a JSON object.
    """
    values = read_json(folder / "config.json")
    return {
        name: value
        for name, value in values.items()
        if not name.startswith("_") and name != "quantization_config"
    }


def read_shapes(folder: Path, variant: str | None = None) -> Shapes:
    """Shape and dtype of every tensor in the safetensors files of a folder, from the files' headers.

    Args:
        folder: the folder.
        variant: read only files of this variant, such as ``fp16``; None for all files.

    Raises:
        UserError: if a file is damaged.
    """
    shapes: Shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        if variant is not None and f".{variant}." not in path.name and f".{variant}-" not in path.name:
            continue
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    tensor = file.get_slice(key)
                    shapes[key] = (tuple(tensor.get_shape()), tensor.get_dtype())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is broken or cut short: {reason(error)}") from error
    return shapes


def count_parameters(shapes: Shapes) -> int:
    """Total number of elements of tensors."""
    return sum(prod(shape) for shape, _ in shapes.values())


@torch.no_grad()
def check_finite(module: nn.Module, where: Path | str) -> None:
    """Check that no weight is NaN or infinite, which may happen when training diverges.

    Quantized tensors and tensors on the meta device are not checked.

    Args:
        module: the model.
        where: source of the weights in the error message.

    Raises:
        UserError: if a weight is NaN or infinite.
    """
    for name, tensor in module.state_dict().items():
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.dtype in DTYPES.values()
        if not plain or tensor.is_meta or not tensor.numel():
            continue
        if not all(extreme.isfinite() for extreme in tensor.aminmax()):
            raise UserError(f"the weights in {where} are broken: {name} has values that are NaN or infinite")


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
