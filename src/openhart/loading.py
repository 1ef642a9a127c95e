"""Loading a model: every argument is honoured or refused, and files are checked before they are read."""

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
GENERIC_OPTIONS = ("use_flashpack",)  # what diffusers' generic loader gives each part beside these
MODEL_OPTIONS = ("dtype", "torch_dtype", "subfolder", "ignore_mismatched_sizes", "output_loading_info")
DTYPE_ARGUMENT = "dtype" if hasattr(diffusers.utils, "_resolve_dtype") else "torch_dtype"
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
SHOWN = 3

Shapes = dict[str, tuple[tuple[int, ...], str]]

_by_pipeline: ContextVar[bool] = ContextVar("_by_pipeline", default=False)


def parse_dtype(value: Any) -> torch.dtype | None:
    """A dtype of weights by itself or by its name, such as ``"bfloat16"``; None for the default.

    Raises:
        UserError: another one.
    """
    name = str(value).removeprefix("torch.")
    if value is None or (isinstance(value, str | torch.dtype) and name in DTYPES):
        return None if value is None else DTYPES[name]
    raise UserError(f"dtype must be {listed(list(DTYPES))}, got {value!r:.60}")


def check_options(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an argument that nothing would come of.

    Raises:
        UserError: it is not among the known ones.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(f"{owner} takes no {name}; it takes {', '.join(sorted(known))}")


def check_files(options: Mapping[str, Any]) -> None:
    """Refuse to read or write weights in another form than safetensors, or under an impossible name.

    Raises:
        UserError: one is asked for.
    """
    variant = options.get("variant")
    if variant is not None and not isinstance(variant, str):
        raise UserError(f"variant must be a text such as fp16, got {variant!r:.60}")
    if options.get("use_flashpack"):
        raise UserError("use_flashpack must be False: only weights in safetensors are read")
    for name in ("use_safetensors", "safe_serialization"):
        if options.get(name, True) not in (True, None):
            raise UserError(f"{name} must be True: pickled weights can run code, so none are read or written")


@contextmanager
def loading_parts() -> Iterator[None]:
    """While a pipeline loads its parts, which diffusers gives arguments of its own."""
    token = _by_pipeline.set(True)
    try:
        yield
    finally:
        _by_pipeline.reset(token)


class CheckedLoading:
    """Mixin of a model: its ``from_pretrained`` checks arguments, settings, names, shapes and values."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load the model.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            kwargs: as :meth:`diffusers.ModelMixin.from_pretrained`; settings replace the stored ones.

        Raises:
            UserError: an argument that nothing would come of, settings that cannot be, or weights that do not
                fit them, are damaged, pickled or not finite.
        """
        settings = list(cls.__init__.settings.model_fields)  # type: ignore[attr-defined]
        if not _by_pipeline.get():
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
            raise UserError(f"there is no folder {folder}")
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
    """Hold a model folder's weight files against its config before anything of them is loaded.

    Args:
        kind: the model's class.
        folder: holds ``config.json`` and safetensors.
        given: settings that take the place of the stored ones.
        variant: of the files, such as ``fp16`` in ``….fp16.safetensors``.

    Raises:
        UserError: a setting that cannot be, or tensors that are missing, unknown or of another shape.
    """
    stored = read_config(folder)
    settings = check_settings(kind, {**stored, **(given or {})}, str(folder / "config.json"))
    shapes = read_shapes(folder, variant)
    if not shapes:
        raise UserError(f"there are no weights in {folder}: it needs files that end in .safetensors")
    quantized = read_json(folder / "config.json").get("quantization_config")
    if quantized is not None and not isinstance(quantized, dict):
        raise UserError(f"{folder / 'config.json'}: quantization_config must hold names and values")
    if quantized is not None:
        return
    try:
        with torch.device("meta"):
            wanted = {name: tuple(value.shape) for name, value in kind(**settings).state_dict().items()}
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    missing, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    other = [name for name, shape in wanted.items() if name in shapes and shapes[name][0] != shape]
    for names, problem in ((missing, "are missing"), (extra, "are not in the model")):
        if names:
            raise UserError(
                f"the weights in {folder} do not fit its config: {len(names)} tensors {problem}, such as "
                f"{names[0]}"
            )
    if other:
        raise UserError(
            f"the weights in {folder} do not fit its config: {other[0]} is {_sides(shapes[other[0]][0])}, "
            f"not {_sides(wanted[other[0]])}"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The settings in a model's ``config.json``, without what diffusers notes beside them.

    Raises:
        UserError: it is missing, or no JSON object.
    """
    values = read_json(folder / "config.json")
    return {
        name: value
        for name, value in values.items()
        if not name.startswith("_") and name != "quantization_config"
    }


def read_shapes(folder: Path, variant: str | None = None) -> Shapes:
    """Shape and dtype of every tensor in a folder's weight files, read off their headers.

    Raises:
        UserError: a file is broken.
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
    """How many numbers some tensors hold."""
    return sum(prod(shape) for shape, _ in shapes.values())


@torch.no_grad()
def check_finite(module: nn.Module, where: Path | str) -> None:
    """Look for weights that are NaN or infinite, as a broken training run leaves them.

    Raises:
        UserError: there are some.
    """
    for name, tensor in module.state_dict().items():
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.dtype in DTYPES.values()
        if not plain or tensor.is_meta or not tensor.numel():
            continue
        if not all(edge.isfinite() for edge in tensor.aminmax()):
            raise UserError(f"the weights in {where} are broken: {name} has values that are NaN or infinite")


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
