"""HPSv2 (arXiv 2306.09341): similarity of images and prompts by a CLIP model that was fitted to preferences.

The published program scores the next image in the place of a missing one; here missing images are refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.image_folders import find_images
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.networks.clip import ImageTextModel
from openhart.evaluation.result import Figure, Result
from openhart.evaluation.similarity import RULES, similarities

PER_STYLE = 800
GROUPS = 10
HPS_RULES = {**RULES, "image": "padded to a square with black"}


def find_styles(folder: Path, styles: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """The image of each prompt in the published layout, ``STYLE/00000.jpg``.

    Args:
        folder: generated images.
        styles: prompts by style, see :func:`openhart.evaluation.samples.layouts.read_hps`.

    Raises:
        UserError: the folder does not exist, or the image of a prompt is missing.
    """
    there = {
        (path.parent.name, path.stem): path for path in find_images(folder) if path.parent.parent == folder
    }
    wanted = {style: [f"{number:05}" for number in range(len(texts))] for style, texts in styles.items()}
    missing = [
        (style, name) for style, names in wanted.items() for name in names if (style, name) not in there
    ]
    if missing:
        total = sum(map(len, wanted.values()))
        raise UserError(
            f"{folder} has no image for {len(missing):,} of {total:,} prompts, such as "
            f"{missing[0][0]}/{missing[0][1]}.jpg: complete it, or choose styles with --style"
        )
    return {style: [there[style, name] for name in names] for style, names in wanted.items()}


def evaluate_hps(
    paths: Mapping[str, Sequence[Path]],
    styles: Mapping[str, Sequence[str]],
    model: ImageTextModel,
    version: str = "2.1",
    quiet: bool = False,
) -> Result:
    """Score images by style.

    Args:
        paths: the result of :func:`find_styles`.
        styles: prompts by style.
        model: the CLIP model with the weights of HPSv2.
        version: version of the weights; those of 2.0 and 2.1 give figures that cannot be compared.
        quiet: show no progress bar.

    Returns:
        ``HPSv2.1 STYLE`` for each style and ``HPSv2.1``, the mean over the styles, with bootstrap intervals
        over images; details have the published deviation, over ten groups of consecutive images.

    Raises:
        UserError: an image cannot be read.
    """
    name = f"HPSv{version}"
    figures, deviations, scores = [], {}, []
    for style, texts in styles.items():
        values = similarities(model, paths[style], texts, on_square, quiet)
        scores.append(values)
        interval = bootstrap_interval(values)
        figures.append(
            Figure(f"{name} {style}", float(values.mean()), len(values), interval, model.name, HPS_RULES)
        )
        groups = np.array_split(values, min(GROUPS, len(values)))
        deviations[style] = float(np.std([group.mean() for group in groups]))
    counts = [len(values) for values in scores]
    overall = float(np.mean([values.mean() for values in scores]))
    influences = [(values - values.mean()) * sum(counts) / (len(scores) * len(values)) for values in scores]
    interval = bootstrap_interval(overall + np.concatenate(influences))
    figures.append(Figure(name, overall, sum(counts), interval, model.name, HPS_RULES))
    complete = counts == [PER_STYLE] * 4
    return Result("hps", tuple(figures), details={"complete": complete, "deviation_over_groups": deviations})


def on_square(image: Image.Image) -> Image.Image:
    """The image in the middle of a black square, which published preprocessing makes of other shapes."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
