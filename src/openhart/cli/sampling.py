"""The options of sampling, made from the declarations of the settings."""

import argparse
import re
from pathlib import Path
from typing import Any, get_type_hints

from openhart.cli.options import UsageError, number, whole
from openhart.errors import UserError
from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.generation.raster_settings import RasterSampling
from openhart.generation.settings import MANY, SamplingSettings, Setting, declarations
from openhart.reading import read_json

SETTINGS: dict[str, type] = {
    "HartPipeline": SamplingSettings,
    "MarPipeline": MaskedSamplingSettings,
    "VqganPipeline": RasterSampling,
}
"""The sampling settings of each class of pipeline; the first class is that of the packaged model."""


def sampling_flag(name: str, declared: Setting) -> str:
    """The option of a sampling setting, such as ``--top-k``."""
    return "--" + (declared.flag or name).replace("_", "-")


FLAGS = {
    **{
        name: sampling_flag(name, each)
        for kind in SETTINGS.values()
        for name, each in declarations(kind).items()
    },
    "class_labels": "--label",
    "height and width": "--height and --width",
    "image sides": "--height and --width",
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add an option per sampling setting, with the help text and the range of its declaration."""
    added: set[str] = set()
    for family, kind in SETTINGS.items():
        if added >= declarations(kind).keys():
            continue
        heading = "sampling" if not added else f"sampling with {family}, beside those above"
        group = parser.add_argument_group(
            heading, "Settings that are left out have the model's own defaults (openhart info)."
        )
        _add_settings(group, kind, added)
        added |= set(declarations(kind))


def _add_settings(group: Any, settings: type, added: set[str]) -> None:
    """Add the options of the settings that are not among those added already."""
    kinds = get_type_hints(settings)
    for name, declared in declarations(settings).items():
        if name in added:
            continue
        flag, text = sampling_flag(name, declared), declared.help.replace("%", "%%")
        if kinds[name] is bool:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=text)
        elif declared.choices:
            group.add_argument(flag, dest=name, choices=declared.choices, help=text)
        elif kinds[name] in (int, int | None):
            kind = whole(int(declared.least or 0), int(declared.most or MANY))
            group.add_argument(flag, dest=name, type=kind, metavar=declared.metavar, help=text)
        else:
            several = None if kinds[name] is float else "+"
            group.add_argument(
                flag, dest=name, type=number, nargs=several, metavar=declared.metavar, help=text
            )


def in_flags(message: str) -> str:
    """A message about arguments of Python, with the names of the command line's options."""
    for name, flag in FLAGS.items():
        message = re.sub(rf"(?<![\w/.-]){name}(?![\w/.-])", flag, message)
    return message.removeprefix("sampling: ")


def given_sampling(options: argparse.Namespace) -> dict[str, Any]:
    """The sampling settings that the command line gives.

    Raises:
        UsageError: if one of them is outside its range, or if the model has no such setting.
    """
    given = {name: value for name in FLAGS if (value := getattr(options, name, None)) is not None}
    kinds = [SETTINGS[family]] if (family := _family(options.model)) else list(SETTINGS.values())
    known = [kind for kind in kinds if given.keys() <= declarations(kind).keys()]
    if not known:
        missing = next(name for name in given if name not in declarations(kinds[0]))
        raise UsageError(f"the model has no setting {FLAGS[missing]}")
    try:
        known[0](**given)
    except UserError as error:
        raise UsageError(in_flags(str(error))) from error
    return given


def _family(model: str | None) -> str | None:
    """The class of a model, if its folder states one that is known here; None for a hub id."""
    if model is None:
        return next(iter(SETTINGS))
    path = Path(model) / "model_index.json"
    kind = read_json(path).get("_class_name") if path.is_file() else None
    return kind if isinstance(kind, str) and kind in SETTINGS else None
