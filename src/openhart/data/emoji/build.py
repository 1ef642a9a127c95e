"""Building the corpus of single things: captioned images of each thing in several styles."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from openhart.atomic import check_new_folder, folder_written_whole
from openhart.data.emoji.colours import BACKGROUNDS
from openhart.data.emoji.common import unseen_combinations
from openhart.data.emoji.drawing import OVERSAMPLING, draw, fit, require_renderer
from openhart.data.emoji.icons import Icon, is_held_out, may_be_mirrored, stable_hash
from openhart.data.emoji.library import Library, read_library
from openhart.data.emoji.packages import DEFAULT_STYLES, check_styles, write_licences
from openhart.errors import UserError

COLOURED_ONE_IN = 3
FILLED = 0.875


@dataclass(frozen=True)
class Task:
    """One icon to draw: size, backgrounds (one image each) and folder."""

    icon: Icon
    size: int
    backgrounds: tuple[str, ...]
    folder: Path


def build_emoji_corpus(
    destination: Path,
    *,
    size: int = 128,
    styles: Sequence[str] = DEFAULT_STYLES,
    packages: Path | None = None,
    workers: int = 2,
    quiet: bool = False,
) -> dict[str, int]:
    """Draw and caption every thing in every style.

    Makes ``train`` and ``test``, each an ``imagefolder`` with ``metadata.jsonl`` (keys ``file_name``,
    ``text``, ``captions``, ``thing``, ``style``, ``background``, ``combination``, ``mirror``, ``license``,
    ``source``), and ``LICENSES.md``. ``combination`` is ``unseen`` where a common thing has the style or the
    background that :mod:`openhart.data.emoji.common` holds out for it, otherwise ``seen``; ``mirror`` states
    whether the mirror image has the same meaning. The folder appears only when it is complete.

    Args:
        destination: the new folder.
        size: side of the images in pixels.
        styles: keys of :data:`openhart.data.emoji.packages.PACKAGES`.
        packages: a folder with the tarballs of the packages; None downloads them with npm.
        workers: number of drawing processes.
        quiet: show no progress bar.

    Returns:
        number of images per split and style.

    Raises:
        UserError: if a style is unknown, the size is below 16, the destination is not empty, or npm or the
            SVG renderer is missing.
    """
    check_styles(styles)
    if size < 16:
        raise UserError(f"size must be at least 16 pixels, got {size}")
    check_new_folder(destination)
    require_renderer()
    with folder_written_whole(destination) as partial, tempfile.TemporaryDirectory() as scratch:
        return _build(partial, size, styles, packages or Path(scratch), workers, quiet)


def _build(
    folder: Path, size: int, styles: Sequence[str], packages: Path, workers: int, quiet: bool
) -> dict[str, int]:
    library = read_library(styles, packages)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    tasks = [
        Task(icon, size, _backgrounds_of(icon), folder / _split_of(icon.thing))
        for icon in library.icons.values()
    ]
    records: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    seen: set[str] = set()
    with Pool(workers) as pool:
        pictures = pool.imap(_draw, tasks, chunksize=8)
        for task, found in tqdm(zip(tasks, pictures, strict=True), "drawing", len(tasks), disable=quiet):
            for background, (file_name, digest) in found.items():
                if digest in seen:
                    (task.folder / file_name).unlink()
                    continue
                seen.add(digest)
                record = _record(task.icon, background, file_name, library)
                records[task.folder.name].append(record)
    for split, lines in records.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / split / "metadata.jsonl").write_text(text)
    (folder / "LICENSES.md").write_text(write_licences(library.sets))
    return dict(Counter(f"{split} {line['style']}" for split, lines in records.items() for line in lines))


def _draw(task: Task) -> dict[str, tuple[str, str]]:
    """Draw an icon on each background; returns file name and hash of the pixels by background."""
    drawing = draw(task.icon.svg, task.icon.ratio, task.size * OVERSAMPLING)
    if drawing is None:
        return {}
    drawing = fit(drawing, task.size * FILLED)
    found = {}
    for background in task.backgrounds:
        colour = BACKGROUNDS.get(background, (255, 255, 255))
        picture = Image.new("RGB", (task.size, task.size), colour)
        corner = [(task.size - side) // 2 for side in drawing.size]
        picture.paste(drawing, (corner[0], corner[1]), drawing)
        file_name = f"{task.icon.style}_{task.icon.name}_{background.replace(' ', '-')}.png"
        picture.save(task.folder / file_name)
        found[background] = (file_name, hashlib.sha256(picture.tobytes()).hexdigest())
    return found


def _record(icon: Icon, background: str, file_name: str, library: Library) -> dict[str, Any]:
    captions = library.captions(icon.thing, icon.style, background)
    unseen = unseen_combinations(icon.thing, icon.style, background)
    return {
        "file_name": file_name,
        "text": captions[0],
        "captions": captions,
        "thing": icon.thing,
        "style": icon.style,
        "background": background,
        "combination": "unseen" if unseen else "seen",
        "mirror": may_be_mirrored(icon.thing),
        **library.credit(icon.style),
    }


def _backgrounds_of(icon: Icon) -> tuple[str, ...]:
    if stable_hash(icon.style + icon.name) % COLOURED_ONE_IN:
        return ("white",)
    colours = list(BACKGROUNDS)
    return ("white", colours[stable_hash(icon.name + icon.style + "b") % len(colours)])


def _split_of(thing: str) -> str:
    return "test" if is_held_out(thing) else "train"
