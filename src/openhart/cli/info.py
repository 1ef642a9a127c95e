"""``openhart info``: modules, sizes and settings of a model, read from its files."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from openhart.cli.options import add_command, named


def add_info(commands: Any) -> None:
    """Add the options."""
    parser = add_command(commands, "info", "Print the modules, sizes and default settings of a model.")
    parser.add_argument(
        "model", nargs="?", type=named,
        help="Folder or Hugging Face id of the model (default: the packaged model).",
    )  # fmt: skip
    parser.set_defaults(run=info)


def info(options: Namespace) -> None:
    """Print the parts of a model, its sizes, its defaults and its licence."""
    from openhart.model_files import find_model

    folder = find_model(options.model)
    if (folder / "model_index.json").is_file() or not (folder / "config.json").is_file():
        _print_pipeline(folder)
    else:
        _print_tokenizer(folder)


def _print_pipeline(folder: Path) -> None:
    from openhart.generation.saved import present_index
    from openhart.model_files import read_index, read_licence, read_parts
    from openhart.pipelines.checks import check_index_settings

    index = read_index(folder)
    check_index_settings(index, folder / "model_index.json")
    parts = read_parts(folder)
    sizes = SIZES[index["_class_name"]](folder) if index["_class_name"] in SIZES else {}
    print(f"model      {folder}")
    for part in parts:
        print(part)
    print(f"{'total':37} {sum(part.parameters for part in parts):>13,} parameters")
    _print_sizes(sizes)
    if index.get("text_encoder_name"):
        print(f"text       {index['text_encoder_name']}, {index.get('max_tokens')} tokens")
    print(f"sampling   {present_index(index).get('sampling') or 'defaults'}")
    print(f"licence    {read_licence(folder) or 'not stated'}")


def _print_tokenizer(folder: Path) -> None:
    """An image tokenizer that was saved by itself."""
    from openhart.model_files import read_part, tokenizer_class

    kind = tokenizer_class(folder)
    part, sizes = read_part(folder, "image_tokenizer", kind), TOKENIZER_SIZES[kind](folder)
    print(f"model      {folder}")
    print(part)
    _print_sizes(sizes)


def _print_sizes(sizes: dict[str, str]) -> None:
    for name, value in sizes.items():
        print(f"{name:10} {value}")


def _codes_of_pipeline(folder: Path) -> dict[str, str]:
    return _code_sizes(folder / "image_tokenizer")


def _code_sizes(folder: Path) -> dict[str, str]:
    from openhart.model_files import IMAGE_TOKENIZERS, tokenizer_class
    from openhart.scales import parse_scales

    tokenizer = _settings_of(IMAGE_TOKENIZERS[tokenizer_class(folder)], folder)
    factor = _factor(tokenizer)
    height, width = parse_scales(tokenizer["scales"])[-1]
    return {
        "scales": ", ".join(str(side) for side in tokenizer["scales"]),
        "image": f"{height * factor}×{width * factor} pixels",
        "codes": f"{tokenizer['codebook_size']:,} of {tokenizer['code_dim']} channels",
    }


def _mar_sizes(folder: Path) -> dict[str, str]:
    from openhart.tokenizer.kl import KLAutoencoder
    from openhart.transformer.masked import MaskedTransformer

    tokenizer = _settings_of(KLAutoencoder, folder / "image_tokenizer")
    transformer = _settings_of(MaskedTransformer, folder / "transformer")
    factor = _factor(tokenizer)
    (height, width), patch = transformer["size"], transformer["patch_size"]
    tokens, channels = height * width // patch**2, transformer["latent_channels"] * patch**2
    return {
        "image": f"{height * factor}×{width * factor} pixels",
        "tokens": f"{tokens} of {channels} channels",
    }


def _latent_sizes(folder: Path) -> dict[str, str]:
    from openhart.tokenizer.kl import KLAutoencoder

    tokenizer = _settings_of(KLAutoencoder, folder)
    factor = _factor(tokenizer)
    height, width = tokenizer["image_size"]
    return {
        "image": f"{height}×{width} pixels",
        "latents": f"{height // factor}×{width // factor} of {tokenizer['latent_channels']} channels",
    }


def _factor(tokenizer: dict[str, Any]) -> int:
    """Down-sampling factor of an image tokenizer with these settings."""
    factor: int = tokenizer["patch_size"] * 2 ** (len(tokenizer["channel_multipliers"]) - 1)
    return factor


def _settings_of(kind: type, folder: Path) -> dict[str, Any]:
    from openhart.checks import check_settings
    from openhart.loading import read_config

    return check_settings(kind, read_config(folder), str(folder / "config.json"))


SIZES = {
    "HartPipeline": _codes_of_pipeline,
    "MarPipeline": _mar_sizes,
    "VqganPipeline": _codes_of_pipeline,
}
"""Per class of pipeline, what gives the names and values of a model's sizes."""
TOKENIZER_SIZES = {
    "HybridTokenizer": _code_sizes,
    "VqganTokenizer": _code_sizes,
    "KLAutoencoder": _latent_sizes,
}
"""Per class of image tokenizer, what gives the names and values of its sizes."""
