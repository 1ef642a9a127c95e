"""OpenHART: text-to-image generation by next-scale prediction, after HART (arXiv 2410.10812)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openhart.quiet import filter_notices

if TYPE_CHECKING:
    from openhart.conditioning.label import LabelEncoder
    from openhart.errors import UserError
    from openhart.pipelines.auto import from_pretrained
    from openhart.pipelines.hart import HartPipeline
    from openhart.pipelines.mar import MarPipeline
    from openhart.pipelines.vqgan import VqganPipeline
    from openhart.residual.heads import TokenResidualHead, WideResidualHead
    from openhart.tokenizer.kl import KLAutoencoder
    from openhart.tokenizer.model import HybridTokenizer
    from openhart.tokenizer.vqgan import VqganTokenizer
    from openhart.transformer.masked import MaskedTransformer
    from openhart.transformer.model import HartTransformer
    from openhart.transformer.raster import RasterTransformer

__version__ = "0.1.0"

__all__ = [
    "HartPipeline",
    "HartTransformer",
    "HybridTokenizer",
    "KLAutoencoder",
    "LabelEncoder",
    "MarPipeline",
    "MaskedTransformer",
    "RasterTransformer",
    "TokenResidualHead",
    "UserError",
    "VqganPipeline",
    "VqganTokenizer",
    "WideResidualHead",
    "__version__",
    "from_pretrained",
]

filter_notices()

_HOMES = {
    "HartPipeline": "pipelines.hart",
    "HartTransformer": "transformer.model",
    "HybridTokenizer": "tokenizer.model",
    "KLAutoencoder": "tokenizer.kl",
    "LabelEncoder": "conditioning.label",
    "MarPipeline": "pipelines.mar",
    "MaskedTransformer": "transformer.masked",
    "RasterTransformer": "transformer.raster",
    "TokenResidualHead": "residual.heads",
    "UserError": "errors",
    "VqganPipeline": "pipelines.vqgan",
    "VqganTokenizer": "tokenizer.vqgan",
    "WideResidualHead": "residual.heads",
    "from_pretrained": "pipelines.auto",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import openhart`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openhart' has no attribute {name!r}")
    return getattr(import_module(f"openhart.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
