"""``openhart evaluate pack``: pictures of a folder into a shuffled sample ``.npz``."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import add_kind
from openhart.cli.options import LARGEST_SEED, place, whole


def add_pack(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(kinds, "pack", pack, help="pictures of a folder into a shuffled sample .npz")
    add = parser.add_argument
    add("folder", type=place)
    add("-o", "--output", type=place, required=True, metavar="NPZ")
    add("--seed", type=whole(0, LARGEST_SEED), default=0, help="of the shuffle")


def pack(options: Namespace) -> None:
    """Write the ``.npz``."""
    from openhart.data.decoding import read_image
    from openhart.evaluation.image_folders import find_images
    from openhart.evaluation.npz_files import write_sample_batch

    paths = find_images(options.folder)
    write_sample_batch(paths, options.output, read_image, options.seed)
    if not options.quiet:
        print(f"{options.output}  {len(paths):,} images")
