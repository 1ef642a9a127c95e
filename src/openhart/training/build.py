"""Builds a model of a recipe and checks that it fits the device."""

from typing import Any, TypeVar

import torch
from torch import nn

from openhart.checks import check_settings
from openhart.memory import check_training

Model = TypeVar("Model", bound=nn.Module)


def build_model(kind: type[Model], settings: dict[str, Any]) -> Model:
    """Make a model from a recipe's settings.

    Raises:
        UserError: if the model has no such setting, or if a value is not valid.
    """
    check_settings(kind, settings, "model")
    return kind(**settings)


def check_weights_fit(model: nn.Module) -> None:
    """Check that a model that was built on the meta device can be trained on the device of a run.

    Raises:
        UserError: if its weights need too much memory.
    """
    if next(model.parameters()).is_meta:
        check_training(sum(weight.numel() for weight in model.parameters()), run_device())


def without_weights(part: Any) -> Any:
    """A model of the same settings on the meta device; None for None."""
    with torch.device("meta"):
        return None if part is None else type(part).from_config(part.config)


def run_device() -> torch.device:
    """The device on which a run trains."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")
