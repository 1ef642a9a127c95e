"""The part of a pipeline that loads, scales, fuses and saves LoRA adapters, under diffusers' names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from diffusers.loaders.lora_base import LoraBaseMixin
from torch import Tensor, nn

from openhart.atomic import folder_filled_whole
from openhart.checksums import write_checksums
from openhart.errors import UserError
from openhart.hub import fetch
from openhart.loading import HUB_OPTIONS, check_options
from openhart.lora import FILE, adapter_from_tensors, attach_lora, read_lora, require_peft
from openhart.transformer.families import AnyTransformer

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
COMPONENTS = ("transformer",)


class LoraPipeline(LoraBaseMixin):
    """Adapters of the transformer.

    ``enable_lora``, ``disable_lora``, ``delete_adapters``, ``get_active_adapters``, ``get_list_adapters`` and
    ``set_lora_device`` are diffusers' own methods.
    """

    _lora_loadable_modules = list(COMPONENTS)  # noqa: RUF012
    transformer_name = "transformer"
    transformer: AnyTransformer
    _optimized: bool
    _quantized: bool

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        weight_name: str = FILE,
        subfolder: str = "",
        hotswap: bool = False,
        **hub: Any,
    ) -> None:
        """Load an adapter and make it the active one.

        Args:
            pretrained_model_name_or_path_or_dict: a folder, a hub id, or tensors by their names.
            adapter_name: a new name, for :meth:`set_adapters`; None for ``default_0``, ``default_1``, ….
            weight_name: the file in the folder.
            subfolder: a folder inside the folder.
            hotswap: replace the adapter of the same name in place, which needs no new compilation.
            hub: for a hub id ``revision``, ``token``, ``cache_dir``, ``local_files_only``,
                ``force_download``.

        Raises:
            UserError: there is no such adapter, it is damaged or was made for another model, peft is missing,
                or the pipeline is optimized or quantized.
        """
        require_peft()
        check_options("load_lora_weights", hub, HUB_OPTIONS)
        if self._optimized or self._quantized:
            raise UserError("load adapters before the pipeline is optimized or quantized")
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            adapter = adapter_from_tensors(source)
        else:
            adapter = read_lora(_find_folder(source, hub) / subfolder, weight_name)
        attach_lora(self.transformer, adapter, adapter_name, hotswap=hotswap, _pipeline=self)

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Set the active adapters and the factor of each.

        Args:
            adapter_names: one or several of the loaded adapters.
            adapter_weights: one number for all, or one per adapter; None for 1.

        Raises:
            UserError: there is no such adapter, or another number of weights.
        """
        require_peft()
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = adapter_weights
        if weights is not None and not isinstance(weights, int | float | dict):
            weights = list(weights)
        try:
            super().set_adapters(names, weights)
        except ValueError as error:
            raise UserError(str(error)) from error

    def fuse_lora(
        self,
        components: Sequence[str] = COMPONENTS,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
    ) -> None:
        """Add adapters to the weights, so that they need no additional time.

        Args:
            components: always the transformer.
            lora_scale: factor of the adapters.
            safe_fusing: leave the weights as they were if the result is not finite.
            adapter_names: the adapters; None for the active ones.
        """
        require_peft()
        chosen = None if adapter_names is None else list(adapter_names)
        super().fuse_lora(list(components), lora_scale, safe_fusing, chosen)

    def unfuse_lora(self, components: Sequence[str] = COMPONENTS) -> None:
        """Subtract fused adapters from the weights again.

        Args:
            components: always the transformer.
        """
        require_peft()
        super().unfuse_lora(list(components))

    def unload_lora_weights(self) -> None:
        """Remove all adapters; fused ones are subtracted from the weights first."""
        require_peft()
        if self.num_fused_loras:
            self.unfuse_lora()
        super().unload_lora_weights()

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        transformer_lora_layers: Mapping[str, Tensor | nn.Module],
        weight_name: str = FILE,
        transformer_lora_adapter_metadata: dict[str, Any] | None = None,
    ) -> None:
        """Save an adapter, as diffusers' training scripts do.

        Args:
            save_directory: the folder, created if it is missing.
            transformer_lora_layers: tensors by their names, as ``peft.get_peft_model_state_dict`` gives them.
            weight_name: the file in the folder.
            transformer_lora_adapter_metadata: peft's settings of the adapter.

        Raises:
            UserError: there are no tensors.
            OSError: the folder cannot be written.
        """
        if not transformer_lora_layers:
            raise UserError("transformer_lora_layers must hold the tensors of an adapter")
        with folder_filled_whole(Path(save_directory)) as folder:
            cls._save_lora_weights(
                save_directory=folder,
                lora_layers={cls.transformer_name: transformer_lora_layers},
                lora_metadata={cls.transformer_name: transformer_lora_adapter_metadata},
                weight_name=weight_name,
            )
            write_checksums(folder)

    def get_active_adapters(self) -> list[str]:
        """Names of the active adapters."""
        require_peft()
        return cast(list[str], super().get_active_adapters())


def _find_folder(source: str | Path, hub: Mapping[str, Any]) -> Path:
    """A folder as it is, and a hub id as the folder into which it is downloaded."""
    if Path(source).is_dir() or not HUB_ID.fullmatch(str(source)):
        return Path(source)
    try:
        return fetch(str(source), hub)
    except UserError as error:
        raise UserError(f"no LoRA in {source}: there is no such folder, and {error}") from error
