"""The settings of a pipeline, and the checks of its settings, its parts and its index file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from transformers import PreTrainedModel

from openhart.checks import PathText, Text, Width, parse_values
from openhart.conditioning.label import LabelEncoder
from openhart.errors import UserError
from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.generation.raster_settings import RasterSampling
from openhart.generation.saved import present_index
from openhart.generation.settings import SamplingSettings
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.kl import KLAutoencoder
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.transformer.families import AnyTransformer
from openhart.transformer.masked import MaskedTransformer
from openhart.transformer.model import HartTransformer
from openhart.transformer.raster import RasterTransformer


@dataclass(frozen=True)
class Layout:
    """What the ``model_index.json`` of a kind of pipeline holds.

    Attributes:
        needed: names of parts.
        optional: names of parts that may be missing or null.
        sampling: the dataclass of its sampling settings.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    sampling: type

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts."""
        return (*self.needed, *self.optional)


CONDITION_PARTS = ("label_encoder", "text_encoder", "text_tokenizer")
LAYOUTS = {
    "HartPipeline": Layout(
        ("image_tokenizer", "transformer"), ("residual_head", *CONDITION_PARTS), SamplingSettings
    ),
    "MarPipeline": Layout(
        ("image_tokenizer", "transformer", "diffusion_head"), CONDITION_PARTS, MaskedSamplingSettings
    ),
    "VqganPipeline": Layout(
        ("image_tokenizer", "transformer"), ("condition_tokenizer", *CONDITION_PARTS), RasterSampling
    ),
}
"""The layout of each pipeline by the name of its class."""


class PipelineSettings(BaseModel):
    """The settings that a pipeline keeps beside its parts."""

    text_encoder_name: PathText | None = None
    max_tokens: Width | None = None
    instruction: Text = ""
    sampling: dict[str, Any] | None = None


def check_index_settings(index: dict[str, Any], path: Path) -> None:
    """Check the names and values in a ``model_index.json``.

    Args:
        index: the content of the file, whose class is one of :data:`LAYOUTS`.
        path: the file, which messages name.

    Raises:
        UserError: a name that the pipeline does not have, or a value that it cannot take.
    """
    layout, settings = LAYOUTS[index["_class_name"]], PipelineSettings.model_fields
    known = {*settings, *layout.parts}
    for name, value in index.items():
        if name.startswith("_"):
            continue
        if name not in known:
            raise UserError(f"{path} has an unknown setting {name}")
        if name not in settings and not _is_part(value, name not in layout.needed):
            raise UserError(f"{path}: {name} must name a module and a class, got {value!r:.60}")
    if missing := [name for name in layout.needed if name not in index]:
        raise UserError(f"{path}: {missing[0]} is missing")
    given = parse_values(PipelineSettings, {n: index[n] for n in settings if n in index}, str(path))
    try:
        layout.sampling(**(present_index(index | {"sampling": given.sampling})["sampling"] or {}))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def names_part(index: dict[str, Any], part: str) -> bool:
    """Whether a ``model_index.json`` names a class for a part."""
    value = index.get(part)
    return isinstance(value, list) and value[0] is not None


def _is_part(value: Any, may_be_none: bool) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(isinstance(word, str) for word in value) or (may_be_none and value == [None, None])


def check_fit(
    image_tokenizer: HybridTokenizer,
    transformer: HartTransformer,
    residual_head: TokenResidualHead | None,
) -> None:
    """Check that the parts agree in scales, codes and widths.

    Raises:
        UserError: they differ.
    """
    quantizer, config = image_tokenizer.quantizer, transformer.config
    table = quantizer.codebook
    sides = [
        ("scales", quantizer.scales, transformer.scales),
        ("codebook_size", table.num_embeddings, config.codebook_size),
        ("code_dim", table.embedding_dim, config.code_dim),
    ]
    if residual_head is not None:
        sides += [
            ("residual head's code_dim", table.embedding_dim, residual_head.config.code_dim),
            ("residual head's condition_dim", config.width, residual_head.config.condition_dim),
        ]
    _check_equal(sides)


def check_mar_fit(
    image_tokenizer: KLAutoencoder, transformer: MaskedTransformer, diffusion_head: TokenResidualHead
) -> None:
    """Check that the parts of a MAR agree in channels and widths.

    Raises:
        UserError: they differ.
    """
    latents, config = image_tokenizer.config.latent_channels, transformer.config
    _check_equal(
        [
            ("transformer's latent_channels", latents, config.latent_channels),
            ("diffusion head's code_dim", transformer.token_channels, diffusion_head.config.code_dim),
            ("diffusion head's condition_dim", config.width, diffusion_head.config.condition_dim),
        ]
    )


def check_vqgan_fit(image_tokenizer: VqganTokenizer, transformer: RasterTransformer) -> None:
    """Check that the parts of a VQGAN agree in codes and size of the map.

    Raises:
        UserError: they differ.
    """
    quantizer = image_tokenizer.quantizer
    _check_equal(
        [
            ("scales", quantizer.scales, transformer.scales),
            ("codebook_size", quantizer.codebook.num_embeddings, transformer.config.codebook_size),
        ]
    )


def check_condition(
    transformer: AnyTransformer,
    label_encoder: LabelEncoder | None,
    text_encoder: PreTrainedModel | None,
    max_tokens: int,
) -> None:
    """Check that the condition encoder gives the context that the transformer takes.

    Raises:
        UserError: it differs in channels or positions.
    """
    config = transformer.config
    if label_encoder is not None:
        _check_equal(
            [
                ("label encoder's dim", config.context_dim, label_encoder.dim),
                ("context_tokens", label_encoder.tokens, config.context_tokens),
            ]
        )
    elif text_encoder is not None:
        width = getattr(text_encoder.config, "hidden_size", config.context_dim)
        _check_equal(
            [
                ("text encoder's width", config.context_dim, width),
                ("max_tokens", config.context_tokens, max_tokens),
            ]
        )


def _check_equal(sides: list[tuple[str, Any, Any]]) -> None:
    for name, wanted, got in sides:
        if wanted != got:
            raise UserError(f"the model's parts do not fit: {name} must be {wanted}, got {got}")
