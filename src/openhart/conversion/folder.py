"""Writing a converted model as a pipeline folder, whole or not at all."""

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

Model = TypeVar("Model", bound=nn.Module)
SHARD_SIZE = "1GB"


def build(
    kind: type[Model],
    config: Mapping[str, Any],
    checkpoint: Checkpoint,
    rules: Rules,
    given: Mapping[str, Tensor] | None = None,
) -> Model:
    """A model of ours around the tensors of a released one, which stay on disk until they are used.

    Args:
        kind: the model's class.
        config: its settings.
        checkpoint: the released tensors.
        rules: from our names to the released ones.
        given: by our names, tensors that have no single released counterpart.

    Raises:
        UserError: settings that cannot be built, or tensors that do not fit them.
    """
    try:
        with torch.device("meta"):
            model = kind(**config)
    except TypeError as error:
        raise UserError(f"{checkpoint.where} has a setting of the wrong kind ({reason(error)})") from error
    checkpoint.fill(model, rules, given)
    return model.eval()


def check_destination(folder: Path) -> None:
    """Refuse to write where something is.

    Raises:
        UserError: the folder exists and is not empty, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: name a new folder, or an empty one")


def save(folder: Path, **parts: Any) -> None:
    """Write a pipeline folder.

    Args:
        folder: new or empty.
        parts: arguments of :class:`openhart.pipelines.hart.HartPipeline`.

    Raises:
        UserError: parts that do not fit each other, or a folder that cannot be written.
    """
    from openhart.pipelines.hart import HartPipeline

    pipeline = HartPipeline(**parts)
    with _appearing_whole(folder) as partial:
        pipeline.save_pretrained(partial, max_shard_size=SHARD_SIZE)


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, which takes its place once all went well."""
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
