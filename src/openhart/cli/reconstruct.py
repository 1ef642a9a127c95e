"""``openhart reconstruct``: an image beside its reconstruction by the image tokenizer."""

from argparse import Namespace
from typing import Any

from openhart.cli.files import check_image_path
from openhart.cli.options import add_command, add_model, place
from openhart.errors import UserError
from openhart.image_io import grid, save_image, to_bytes, to_pil


def add_reconstruct(commands: Any) -> None:
    """Add the options."""
    parser = add_command(
        commands, "reconstruct", "Encode and decode an image, to see what the image tokenizer preserves.",
        "openhart reconstruct photo.png -o pair.png",
    )  # fmt: skip
    add = parser.add_argument
    add("image", type=place, help="Image file.")
    add(
        "-o", "--output", type=place, required=True, metavar="FILE",
        help="File of the result, .png, .jpg, .jpeg or .webp: the original on the left, the reconstruction "
        "on the right.",
    )  # fmt: skip
    add("--discrete", action="store_true", help="Decode the codes only, without the residual.")
    add_model(parser)
    parser.set_defaults(run=reconstruct)


def reconstruct(options: Namespace) -> None:
    """Write both images side by side and print the PSNR."""
    check_image_path(options.output)
    import torch

    from openhart.data.decoding import read_image
    from openhart.data.images import to_tensor
    from openhart.evaluation.metrics.pixels import psnr_each
    from openhart.model_files import load_image_tokenizer
    from openhart.tokenizer.base import CODES

    image = read_image(options.image)
    tokenizer = load_image_tokenizer(options.model)
    height, width = tokenizer.image_size
    if image.size != (width, height):
        print(
            f"{options.image} is {image.width}×{image.height}: its middle was resized to "
            f"{width}×{height}, the size of the model"
        )
    original = to_tensor(image, tokenizer.image_size)[None]
    with torch.no_grad():
        versions = tokenizer.versions(original)
        chosen = CODES if options.discrete else list(versions)[-1]
        if chosen not in versions:
            raise UserError("--discrete decodes codes, and the image tokenizer of this model has none")
        made = tokenizer.decode(versions[chosen])
    if not made.isfinite().all():
        raise UserError("the reconstruction is not finite: the image tokenizer's weights are damaged")
    save_image(grid(to_pil(torch.cat([original, made])), columns=2), options.output)
    ratio = float(psnr_each(to_bytes(made), to_bytes(original))[0])
    print(f"{options.output}  PSNR {ratio:.2f} dB")
