"""Sampling settings in the ``model_index.json`` of saved models, in the present and the earlier form.

The first version stored g of (1 + g) · cond − g · uncond as ``guidance_scale`` and had other names for three
settings. The present version stores the settings of :class:`SamplingSettings` and states its number.
"""

from collections.abc import Mapping
from typing import Any

from openhart.errors import UserError

VERSION_KEY = "_sampling_version"
VERSION = 2
RENAMED = {
    "last_scale_holds_back": "hold_last_guidance",
    "smooth": "gumbel_smoothing",
    "kept_tokens": "keep_ratios",
}


def present_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a ``model_index.json`` with its sampling settings in the present form.

    Args:
        index: the content of the file; without ``_sampling_version`` it is of the first version.

    Returns:
        a copy; what is not a table of settings is left as it is, for later checks to refuse.

    Raises:
        UserError: a later version of OpenHART saved the model.
    """
    version, values = index.get(VERSION_KEY, 1), index.get("sampling")
    if version not in (1, VERSION):
        raise UserError(
            f"the model has sampling settings of version {version!r}, but this OpenHART reads versions 1 and "
            f"{VERSION}: install a later OpenHART"
        )
    if version == 1 and isinstance(values, Mapping):
        values = _translated(values)
    return {**index, VERSION_KEY: VERSION} | ({"sampling": values} if "sampling" in index else {})


def _translated(values: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {RENAMED.get(name, name): value for name, value in values.items()}
    guidance = renamed.get("guidance_scale")
    if isinstance(guidance, int | float) and not isinstance(guidance, bool) and guidance >= 0:
        renamed["guidance_scale"] = guidance + 1
    return renamed
