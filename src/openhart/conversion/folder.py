"""Building converted models, and writing them as pipeline folders that appear only when complete."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from openhart.conversion.keys import Rules
from openhart.conversion.weights import Checkpoint
from openhart.errors import UserError, reason
from openhart.model_files import loading
from openhart.pipelines.files import PipelineFiles

Model = TypeVar("Model", bound=nn.Module)
SHARD_SIZE = "1GB"


def build(
    kind: type[Model],
    config: Mapping[str, Any],
    checkpoint: Checkpoint,
    rules: Rules,
    given: Mapping[str, Tensor] | None = None,
) -> Model:
    """Build one of our models with the tensors of a released one, without copying them.

    Args:
        kind: class of our model.
        config: settings of our model.
        checkpoint: the released tensors; they are memory-mapped where the file allows it.
        rules: rules from our names to the released ones.
        given: tensors without a single released counterpart, by our names.

    Returns:
        the model in evaluation mode.

    Raises:
        UserError: if the settings are invalid, or if tensors are missing or do not fit the settings.
    """
    try:
        with torch.device("meta"):
            model = kind(**config)
    except TypeError as error:
        raise UserError(f"{checkpoint.where} has a setting of the wrong kind ({reason(error)})") from error
    checkpoint.fill(model, rules, given)
    return model.eval()


def check_destination(folder: Path) -> None:
    """Check that the destination does not exist or is an empty folder.

    Raises:
        UserError: if the destination is a file, or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: give a new or an empty folder")


def save(folder: Path, kind: type[PipelineFiles], **parts: Any) -> None:
    """Write a pipeline folder.

    Args:
        folder: a new or empty folder.
        kind: class of the pipeline.
        parts: arguments of the pipeline.

    Raises:
        UserError: if the parts do not fit each other, if the folder is not empty, or if it cannot be written.
    """
    pipeline = kind(**parts)
    with appearing_whole(folder) as partial:
        pipeline.save_pretrained(partial, max_shard_size=SHARD_SIZE)


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder in the same parent folder, which is renamed after success."""
    check_destination(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as beside:
            partial = Path(beside) / "model"
            with loading(folder):
                yield partial
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
