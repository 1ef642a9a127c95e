"""Loading a pipeline from a folder or the hub, and saving it."""

import tempfile
from pathlib import Path
from typing import Any, ClassVar, cast

import diffusers.utils
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi
from torch import nn

from openhart.atomic import folder_filled_whole
from openhart.checksums import check_checksums, warn_of_changes, write_checksums
from openhart.conditioning.text import load_text_encoder
from openhart.errors import UserError
from openhart.generation.saved import present_index
from openhart.loading import (
    DTYPE_ARGUMENT,
    HUB_OPTIONS,
    LOADING_OPTIONS,
    check_files,
    check_finite,
    check_options,
    loading_parts,
    parse_dtype,
)
from openhart.model_files import find_model, loading, read_index
from openhart.pipelines.card import CARD_FILE, write_card
from openhart.pipelines.checks import Layout, PipelineSettings, check_index_settings, names_part
from openhart.safety import OWN_CLASSES, TEXT_PARTS, refuse_code

SAVING_OPTIONS = ("safe_serialization", "variant", "max_shard_size")
LOADER_FILE = "pipeline.py"
LOADER = '''"""Opens this model with diffusers alone; it needs `pip install openhart`:

DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline="pipeline", trust_remote_code=True)
"""

from openhart.pipelines.generic import {0}

__all__ = ["{0}"]
'''


class PipelineFiles(DiffusionPipeline):
    """The part of a pipeline that reads and writes model folders.

    Attributes:
        family: name of the class in ``model_index.json``.
        layout: parts and settings of the pipeline.
    """

    family: ClassVar[str]
    layout: ClassVar[Layout]
    _quantized: bool = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any
    ) -> "PipelineFiles":
        """Load a model from a folder or from the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: a folder or a hub id; None for the packaged model.
            kwargs: any of the following.

                - ``dtype`` (or ``torch_dtype``): a dtype or its name; or a dictionary with one per part and
                  ``default``.
                - For the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only`` and
                  ``force_download``. All but ``revision`` apply to the text encoder too.
                - ``variant`` of the weight files.
                - What :meth:`diffusers.DiffusionPipeline.from_pretrained` takes to place and to quantize
                  weights, such as ``device_map`` and ``quantization_config``.
                - A part or setting of the pipeline, which replaces the stored one.

        Raises:
            UserError: there is no such model, an argument has no effect, the weights are damaged, or the
                config does not fit them.
        """
        refuse_code(kwargs)
        known = (*HUB_OPTIONS, *LOADING_OPTIONS, "dtype", "torch_dtype", *cls.layout.parts)
        check_options(f"{cls.family}.from_pretrained", kwargs, (*known, *PipelineSettings.model_fields))
        check_files(kwargs)
        for name in cls.layout.needed:
            if name in kwargs and not isinstance(kwargs[name], nn.Module):
                raise UserError(f"{name} must be a model, got {kwargs[name]!r:.60}")
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        dtype = _parse_dtypes(kwargs.pop("dtype", kwargs.pop("torch_dtype", None)), cls.layout.parts)
        folder = find_model(pretrained_model_name_or_path, hub)
        index = read_index(folder)
        if index["_class_name"] != cls.family:
            raise UserError(f"{folder} is a model of {index['_class_name']}: load it with that class")
        check_index_settings(index, folder / "model_index.json")
        encoder_name = index.get("text_encoder_name")
        with loading(pretrained_model_name_or_path or folder), loading_parts():
            if encoder_name and "text_encoder" not in kwargs and not names_part(index, "text_encoder"):
                tokenizer, encoder = load_text_encoder(encoder_name, hub | {"revision": None})
                kwargs |= {"text_encoder": encoder.to(_dtype_of(dtype)), "text_tokenizer": tokenizer}
            kwargs.setdefault("low_cpu_mem_usage", diffusers.utils.is_accelerate_available())
            changed = check_checksums(folder, excluded_parts=OWN_CLASSES[cls.family])
            kwargs |= {"use_safetensors": True, DTYPE_ARGUMENT: dtype}
            pipeline = cast(PipelineFiles, super().from_pretrained(str(folder), **kwargs))
            if pipeline.text_encoder is not None:
                check_finite(pipeline.text_encoder, encoder_name or folder / "text_encoder")
        warn_of_changes(changed)
        return pipeline

    @classmethod
    def extract_init_dict(
        cls, config_dict: dict[str, Any], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """As in diffusers, which calls it to load a pipeline, with earlier sampling settings translated."""
        return super().extract_init_dict(present_index(config_dict), **kwargs)  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the model. The folder is filled completely or left as it was.

        A text encoder that has a name (``text_encoder_name``) is not saved, but loaded by its name again. The
        folder also gets a ``pipeline.py``, with which diffusers' generic loader opens the model, and a model
        card ``README.md``, unless it has one.

        Args:
            save_directory: the folder, created if it is missing; other files in it stay.
            kwargs: ``variant`` and ``max_shard_size``, as :meth:`diffusers.DiffusionPipeline.save_pretrained`
                takes them.

        Raises:
            UserError: the weights are quantized, or an argument has no effect.
            OSError: the folder cannot be written.
        """
        check_options(f"{self.family}.save_pretrained", kwargs, SAVING_OPTIONS)
        check_files(kwargs)
        if self._quantized:
            raise UserError("quantized weights cannot be saved: save the model before it is quantized")
        with folder_filled_whole(Path(save_directory)) as folder:
            DiffusionPipeline.save_pretrained(self._without_named(), str(folder), **kwargs)
            (folder / LOADER_FILE).write_text(LOADER.format(self.family), encoding="utf-8")
            if not (Path(save_directory) / CARD_FILE).exists():
                write_card(folder, self.image_tokenizer.image_size)
            write_checksums(folder)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        **kwargs: Any,
    ) -> str:
        """Save the model to a repository of the Hugging Face hub, which is created if it is missing.

        A model card that the repository has stays as it is.

        Args:
            repo_id: hub id ``owner/name``.
            commit_message: message of the commit; None for the hub's own.
            private: whether a new repository is private; None for the owner's default.
            token: token with the right to write; None for the stored one.
            create_pr: open a pull request instead of a commit.
            kwargs: as :meth:`save_pretrained`.

        Returns:
            address of the commit.

        Raises:
            UserError: as :meth:`save_pretrained`.
        """
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=commit_message,
                create_pr=create_pr,
                ignore_patterns=[CARD_FILE] if api.file_exists(name, CARD_FILE) else None,
            )

    def _without_named(self) -> DiffusionPipeline:
        """This pipeline, or, if its text encoder has a name, one of the same parts without the encoder."""
        if not self.config.text_encoder_name:
            return self
        settings = {name: self.config[name] for name in PipelineSettings.model_fields}
        return type(self)(**{**self.components, **dict.fromkeys(TEXT_PARTS)}, **settings)


def _parse_dtypes(value: Any, parts: tuple[str, ...]) -> Any:
    """A dtype, or a dtype per part and ``default``, as diffusers takes them."""
    if isinstance(value, dict):
        check_options("dtype", value, (*parts, "default"))
        return {name: parse_dtype(part) for name, part in value.items()}
    return parse_dtype(value)


def _dtype_of(dtype: Any) -> torch.dtype | None:
    """The text encoder's dtype."""
    return dtype.get("text_encoder", dtype.get("default")) if isinstance(dtype, dict) else dtype
