"""MJHQ-30K (arXiv 2402.17245): FID overall and per category, and CLIP score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from openhart.errors import UserError
from openhart.evaluation.benchmarks.imagenet import distance_name
from openhart.evaluation.image_folders import Crop, find_images, read_placed_batches
from openhart.evaluation.metrics.frechet import FRECHET_RULES, statistics_of
from openhart.evaluation.metrics.influence import frechet_interval
from openhart.evaluation.networks.clip import ImageTextModel
from openhart.evaluation.networks.extractors import Extractor
from openhart.evaluation.result import Figure, Result
from openhart.evaluation.similarity import RULES, mean_similarity, similarities

COUNT = 30_000
FRECHET_OF_RESIZE = {
    "clean": "clean-fid",
    "legacy-pytorch": "guided-diffusion",
    "legacy-tensorflow": "torch-fidelity",
}
"""The rule for the Fréchet distance in the program of each resizing rule; pytorch-fid has that of ADM."""
Features = NDArray[np.floating]


@dataclass(frozen=True)
class Pair:
    """A prompt with its category, its generated image and its reference image."""

    prompt: str
    category: str
    made: Path
    real: Path


def find_pairs(folder: Path, reference: Path, entries: Mapping[str, Mapping[str, str]]) -> list[Pair]:
    """The images of all entries in two folders; they may lie in folders of categories.

    Args:
        folder: generated images, ``ID.jpg`` or ``CATEGORY/ID.jpg``.
        reference: real images, the same.
        entries: id → ``category`` and ``prompt``, see
            :func:`openhart.evaluation.samples.layouts.read_mjhq`.

    Raises:
        UserError: a folder does not exist, or the image of an entry is missing.
    """
    made, real = ({path.stem: path for path in find_images(each)} for each in (folder, reference))
    for each, found in ((folder, made), (reference, real)):
        missing = [item for item in entries if item not in found]
        if missing:
            raise UserError(
                f"{each} has no image for {len(missing):,} of {len(entries):,} prompts, such as "
                f"{missing[0]}.jpg: complete it, or choose prompts with --count or --category"
            )
    return [
        Pair(entry["prompt"], entry["category"], made[item], real[item]) for item, entry in entries.items()
    ]


def evaluate_mjhq(
    pairs: Sequence[Pair],
    extractor: Extractor,
    frechet: str = "clean-fid",
    clip: ImageTextModel | None = None,
    crop: tuple[str, Crop] | None = None,
    skip_broken: bool = False,
    quiet: bool = False,
) -> Result:
    """Compare generated images with the reference images, and with their prompts.

    Args:
        pairs: the result of :func:`find_pairs`.
        extractor: Inception, or another network, whose name is then part of the result.
        frechet: one of :data:`openhart.evaluation.metrics.frechet.FRECHET_RULES`.
        clip: a CLIP model; None omits the CLIP score.
        crop: name and function of a crop that both sets of images get; None keeps them as they are.
        skip_broken: whether pairs with an unreadable image are skipped and listed, and not refused.
        quiet: show no progress bar.

    Returns:
        ``FID`` and ``FID CATEGORY`` for each category with at least two pairs (``FD`` if the network is not
        Inception), and ``CLIP score``; details have the skipped images.

    Raises:
        UserError: an image cannot be read, the generated images have several sizes and are not cropped, or
            too few pairs are left.
    """
    broken: list[str] | None = [] if skip_broken else None
    kept, made, real = _paired_features(pairs, extractor, None if crop is None else crop[1], broken, quiet)
    rules: dict[str, str | int] = {
        "frechet": frechet, "crop": "none" if crop is None else crop[0], "reference_images": len(kept),
    }  # fmt: skip
    name = distance_name(extractor)
    categories = np.array([pair.category for pair in kept])
    figures = [_distance(name, made, real, extractor, frechet, rules)]
    for category in dict.fromkeys(categories.tolist()):
        own = categories == category
        if own.sum() > 1:
            limited = {**rules, "reference_images": int(own.sum())}
            figures.append(_distance(f"{name} {category}", made[own], real[own], extractor, frechet, limited))
    if clip is not None:
        paths, prompts = [pair.made for pair in kept], [pair.prompt for pair in kept]
        score = mean_similarity(similarities(clip, paths, prompts, quiet=quiet))
        figures.append(Figure("CLIP score", score.value, len(kept), score.interval, clip.name, RULES))
    details = {"complete": len(kept) == COUNT, "skipped": broken or []}
    return Result("mjhq", tuple(figures), details=details)


def _distance(
    name: str,
    made: Features,
    real: Features,
    extractor: Extractor,
    frechet: str,
    rules: Mapping[str, str | int],
) -> Figure:
    reference = statistics_of(real, "reference features")
    own = statistics_of(made, "features of the generated images")
    value = FRECHET_RULES[frechet](own, reference)
    interval = frechet_interval(value, made, own, reference)
    return Figure(name, value, len(made), interval, extractor.name, rules)


def _paired_features(
    pairs: Sequence[Pair], extractor: Extractor, crop: Crop | None, broken: list[str] | None, quiet: bool
) -> tuple[list[Pair], Features, Features]:
    """The pairs of which both images can be read, and the features of their two images."""
    if crop is None:
        _check_one_size([pair.made for pair in pairs])
    made, made_places = _features([pair.made for pair in pairs], extractor, crop, broken, quiet)
    real, real_places = _features([pair.real for pair in pairs], extractor, crop, broken, quiet)
    places = sorted({*made_places} & {*real_places})
    if len(places) < 2:
        raise UserError(f"MJHQ-30K needs at least 2 pairs of readable images, got {len(places)}")
    chosen = (np.isin(made_places, places), np.isin(real_places, places))
    return [pairs[place] for place in places], made[chosen[0]], real[chosen[1]]


def _check_one_size(paths: Sequence[Path]) -> None:
    """Refuse generated images of several sizes, which a resizing rule would treat differently."""
    sizes: dict[tuple[int, int], Path] = {}
    for path in paths:
        try:
            with Image.open(path) as opened:
                sizes.setdefault(opened.size, path)
        except (OSError, ValueError, SyntaxError):
            continue  # it is refused or skipped when it is decoded
    if len(sizes) > 1:
        (first, one), (second, other) = list(sizes.items())[:2]
        raise UserError(
            f"generated images must have one size, but {one} is {first[0]}×{first[1]} and {other} is "
            f"{second[0]}×{second[1]}: crop them with --crop and --size"
        )


def _features(
    paths: Sequence[Path], extractor: Extractor, crop: Crop | None, broken: list[str] | None, quiet: bool
) -> tuple[Features, list[int]]:
    """Pooled features of the readable images, and their indices in ascending order."""
    found, places = [], []
    with tqdm(total=len(paths), desc="images", disable=quiet) as progress:
        for part, images in read_placed_batches(paths, crop, broken):
            found.append(extractor(images)[0])
            places += part
            progress.update(len(part))
    if not found:
        raise UserError(f"none of the {len(paths)} images below {paths[0].parent} can be read")
    return np.concatenate(found), places
