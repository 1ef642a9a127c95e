"""LoRA (arXiv 2106.09685) on the transformer, by peft: small matrices learn, all else stays as it was."""

from pathlib import Path
from typing import Any

from torch import nn

from openhart.checksums import write_checksums
from openhart.errors import UserError
from openhart.training.config import Lora
from openhart.transformer.model import HartTransformer

FOLDER = "lora"


def add_lora(transformer: HartTransformer, settings: Lora) -> None:
    """Freeze a transformer and put trainable low-rank maps beside the linear maps that ``targets`` name.

    They begin as zero, so that the model begins as it was.

    Args:
        transformer: changed in place.
        settings: rank, alpha and targets.

    Raises:
        UserError: peft is missing, or a target is not there or no linear map.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("LoRA needs peft: pip install 'openhart[lora]'") from error
    for target in settings.targets:
        found = [
            module
            for name, module in transformer.named_modules()
            if name == target or name.endswith(f".{target}")
        ]
        if not found:
            raise UserError(f"lora.targets: the transformer has no module {target}")
        if not all(isinstance(module, nn.Linear) for module in found):
            raise UserError(f"lora.targets: {target} is no linear map, as qkv, proj, gate, up and down are")
    transformer.requires_grad_(False)
    alpha: Any = settings.alpha  # peft scales by a fraction as well
    config = LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=settings.targets)
    try:
        transformer.add_adapter(config)
    except ValueError as error:
        raise UserError(f"lora.targets: {' '.join(str(error).split())[:200]}") from error


def save_lora(transformer: HartTransformer, folder: Path) -> None:
    """Write the adapter alone, in the form that :func:`openhart.model_files.load_lora` reads."""
    transformer.save_lora_adapter(folder)
    write_checksums(folder)
