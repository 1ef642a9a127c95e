"""``openhart convert``: released weights to a model folder."""

from argparse import Namespace
from typing import Any

from openhart.atomic import check_writable
from openhart.cli.options import add_command, named, place, text_or_file, whole

TARGET = "Folder of the converted model; it must be new or empty."


def add_convert(commands: Any) -> None:
    """Add the options, one sub-command per kind of weights."""
    parser = add_command(commands, "convert", "Convert released weights to a model folder.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="hart|var|mar|vqgan|clip")
    _add_hart(kinds)
    _add_var(kinds)
    _add_mar(kinds)
    _add_vqgan(kinds)
    _add_clip(kinds)


def _add_hart(kinds: Any) -> None:
    hart = add_command(
        kinds, "hart", "Convert a released HART folder.", "openhart convert hart hart-0.7b-1024px models/hart"
    )
    add = hart.add_argument
    add("source", type=place, help="Folder of the release, with llm/ and tokenizer/.")
    add("target", type=place, help=TARGET)
    add(
        "--weights", choices=["ema", "raw"], default="ema",
        help="Weights to take: ema, their moving average, or raw (default: ema).",
    )  # fmt: skip
    add(
        "--text-encoder", type=named, metavar="NAME",
        help="Folder or Hugging Face id of the text encoder, which is stored as a name and loaded with the "
        "model (default: none; the text encoder is then passed to the pipeline).",
    )  # fmt: skip
    add(
        "--instruction", type=text_or_file, default="", metavar="TEXT|@FILE",
        help="Text that is put before every prompt, as in training; @FILE reads it from a file (default: "
        "no text).",
    )  # fmt: skip
    hart.set_defaults(run=convert_hart_weights)


def _add_var(kinds: Any) -> None:
    var = add_command(
        kinds, "var", "Convert released VAR weights.",
        "openhart convert var vae_ch160v4096z32.pth var_d16.pth models/var-d16",
    )  # fmt: skip
    add = var.add_argument
    add("vae", type=place, help="File of the image tokenizer, such as vae_ch160v4096z32.pth.")
    add("transformer", type=place, help="File of the transformer, such as var_d16.pth.")
    add("target", type=place, help=TARGET)
    add(
        "--scales", type=whole(1, 1024), nargs="+", metavar="SIDE",
        help="Sides of the code maps, from the first scale on (default: those of the published model with "
        "as many tokens).",
    )  # fmt: skip
    var.set_defaults(run=convert_var_weights)


def _add_mar(kinds: Any) -> None:
    mar = add_command(
        kinds, "mar", "Convert released MAR weights.",
        "openhart convert mar kl16.ckpt mar_base/checkpoint-last.pth models/mar-b",
    )  # fmt: skip
    add = mar.add_argument
    add("autoencoder", type=place, help="File of the image tokenizer, kl16.ckpt.")
    add("transformer", type=place, help="File of transformer and diffusion head, checkpoint-last.pth.")
    add("target", type=place, help=TARGET)
    add(
        "--weights", choices=["ema", "raw"], default="ema",
        help="Weights to take: ema, their moving average, or raw (default: ema).",
    )  # fmt: skip
    add(
        "--heads", type=whole(1, 1024), metavar="N",
        help="Number of attention heads (default: that of the released model of the same width).",
    )  # fmt: skip
    mar.set_defaults(run=convert_mar_weights)


def _add_vqgan(kinds: Any) -> None:
    vqgan = add_command(
        kinds, "vqgan", "Convert a released VQGAN folder.",
        "openhart convert vqgan 2021-04-03T19-39-50_cin_transformer models/cin",
    )  # fmt: skip
    add = vqgan.add_argument
    add(
        "source", type=place,
        help="Folder of the release, with one .yaml and one .ckpt file: a transformer with its image "
        "tokenizer, or an image tokenizer alone.",
    )  # fmt: skip
    add("target", type=place, help=TARGET)
    vqgan.set_defaults(run=convert_vqgan_weights)


def _add_clip(kinds: Any) -> None:
    clip = add_command(
        kinds, "clip", "Convert CLIP weights of open_clip, such as HPSv2, for openhart evaluate.",
        "openhart convert clip HPS_v2.1_compressed.pt models/hps --base "
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    )  # fmt: skip
    add = clip.add_argument
    add("source", type=place, help="File of the weights.")
    add("target", type=place, help=TARGET)
    add(
        "--base", type=named, required=True, metavar="NAME",
        help="Folder or Hugging Face id of a CLIP model of the same architecture, whose settings, "
        "preprocessing and tokenizer are taken.",
    )  # fmt: skip
    clip.set_defaults(run=convert_clip_weights)


def convert_hart_weights(options: Namespace) -> None:
    """Convert a released HART folder."""
    check_writable(options.target)
    from openhart.conversion.hart import convert_hart

    convert_hart(
        options.source,
        options.target,
        weights=options.weights,
        text_encoder=options.text_encoder,
        instruction=options.instruction,
    )
    print(options.target)


def convert_var_weights(options: Namespace) -> None:
    """Convert released VAR weights."""
    check_writable(options.target)
    from openhart.conversion.var import convert_var

    convert_var(options.vae, options.transformer, options.target, scales=options.scales)
    print(options.target)


def convert_mar_weights(options: Namespace) -> None:
    """Convert released MAR weights."""
    check_writable(options.target)
    from openhart.conversion.mar import convert_mar

    convert_mar(
        options.autoencoder,
        options.transformer,
        options.target,
        weights=options.weights,
        num_heads=options.heads,
    )
    print(options.target)


def convert_vqgan_weights(options: Namespace) -> None:
    """Convert a released VQGAN folder."""
    check_writable(options.target)
    from openhart.conversion.vqgan import convert_vqgan

    convert_vqgan(options.source, options.target)
    print(options.target)


def convert_clip_weights(options: Namespace) -> None:
    """Convert CLIP weights of open_clip."""
    check_writable(options.target)
    from openhart.conversion.clip import convert_clip

    convert_clip(options.source, options.base, options.target)
    print(options.target)
