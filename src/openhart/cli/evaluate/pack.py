"""``openhart evaluate pack``: images of a folder into a shuffled sample ``.npz``."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import add_kind, add_seed
from openhart.cli.options import place


def add_pack(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "pack", pack, "Write the images of a folder to a file of samples (.npz) in random order.",
        "imagenet-samples -o samples.npz",
    )  # fmt: skip
    parser.add_argument("folder", type=place, help="Folder of images of equal size.")
    parser.add_argument("-o", "--output", type=place, required=True, metavar="NPZ", help="File to write.")
    add_seed(parser, "Seed of the order")


def pack(options: Namespace) -> None:
    """Write the ``.npz``."""
    from openhart.data.decoding import read_image
    from openhart.evaluation.image_folders import find_images
    from openhart.evaluation.npz_files import write_sample_batch

    paths = find_images(options.folder)
    write_sample_batch(paths, options.output, read_image, options.seed)
    if not options.quiet:
        print(f"{options.output}  {len(paths):,} images")
