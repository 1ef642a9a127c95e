"""``openhart info``: modules, sizes and settings of a model, read from its files."""

from argparse import Namespace
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
    from openhart.checks import check_settings
    from openhart.generation.saved import present_index
    from openhart.loading import read_config
    from openhart.model_files import find_model, read_index, read_licence, read_parts
    from openhart.pipelines.checks import check_index_settings
    from openhart.scales import parse_scales
    from openhart.tokenizer.model import HybridTokenizer

    folder = find_model(options.model)
    index = read_index(folder)
    check_index_settings(index, folder / "model_index.json")
    parts = read_parts(folder)
    where = folder / "image_tokenizer"
    tokenizer = check_settings(HybridTokenizer, read_config(where), str(where / "config.json"))
    factor = tokenizer["patch_size"] * 2 ** (len(tokenizer["channel_multipliers"]) - 1)
    height, width = parse_scales(tokenizer["scales"])[-1]
    print(f"model      {folder}")
    for part in parts:
        print(f"{part.name:16} {part.kind:20} {part.parameters:>13,} parameters  {part.dtype}")
    print(f"{'total':37} {sum(part.parameters for part in parts):>13,} parameters")
    print(f"scales     {', '.join(str(side) for side in tokenizer['scales'])}")
    print(f"image      {height * factor}×{width * factor} pixels")
    print(f"codes      {tokenizer['codebook_size']:,} of {tokenizer['code_dim']} channels")
    if index.get("text_encoder_name"):
        print(f"text       {index['text_encoder_name']}, {index.get('max_tokens')} tokens")
    print(f"sampling   {present_index(index).get('sampling') or 'defaults'}")
    print(f"licence    {read_licence(folder) or 'not stated'}")
