"""Loading a model of any family."""

from pathlib import Path
from typing import Any

import openhart
from openhart.loading import HUB_OPTIONS
from openhart.model_files import find_model, read_index
from openhart.pipelines.files import PipelineFiles


def from_pretrained(pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any) -> PipelineFiles:
    """Load a model with the pipeline that its ``model_index.json`` names, such as ``MarPipeline``.

    Args:
        pretrained_model_name_or_path: a folder or a hub id; None for the packaged model.
        kwargs: as ``from_pretrained`` of the pipeline.

    Raises:
        UserError: if there is no such model, or if it cannot be loaded.
    """
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    kind: type[PipelineFiles] = getattr(
        openhart, read_index(find_model(pretrained_model_name_or_path, hub))["_class_name"]
    )
    return kind.from_pretrained(pretrained_model_name_or_path, **kwargs)
