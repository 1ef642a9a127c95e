"""Building the scenes: single things, colours, counts, pairs and positions with exact captions."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from openhart.atomic import check_new_folder, folder_written_whole
from openhart.data.emoji.drawing import require_renderer
from openhart.data.emoji.library import Library, read_library
from openhart.data.emoji.mixture import training_scenes, unseen_scenes
from openhart.data.emoji.packages import check_styles, write_licences
from openhart.data.emoji.prompts import write_prompts
from openhart.data.emoji.scenes import Scene, compose, facts
from openhart.data.emoji.sentences import requirements, scene_captions
from openhart.data.emoji.sprites import Sprites
from openhart.errors import UserError

SCENE_STYLES = ("fluent-3d", "fluent-flat", "noto")
AT_A_TIME = 64
"""Scenes that a process draws in one piece; neighbouring scenes show the same thing."""


@dataclass(frozen=True)
class Split:
    """What the scenes of one split are made of: folder, number and seed of the scenes, styles and maker."""

    folder: Path
    count: int
    seed: int
    styles: Sequence[str]
    make: Callable[..., Iterator[Scene]]


def build_scenes(
    destination: Path,
    *,
    count: int = 24_000,
    unseen: int = 600,
    seed: int = 0,
    size: int = 128,
    styles: Sequence[str] = SCENE_STYLES,
    packages: Path | None = None,
    workers: int = 2,
    quiet: bool = False,
) -> dict[str, int]:
    """Draw and caption scenes; equal arguments give equal files, whatever the number of workers.

    Makes ``train`` and ``unseen``, each an ``imagefolder`` with ``metadata.jsonl`` (keys ``file_name``,
    ``text``, ``captions``, the facts of :func:`openhart.data.emoji.scenes.facts`, ``combination`` (``seen``,
    or ``unseen`` for a held-out one), ``include``, for counting
    ``exclude``, ``license``, ``source``; ``thing`` where one thing is alone), ``prompts``
    (:func:`openhart.data.emoji.prompts.write_prompts`) and ``LICENSES.md``. Each scene of ``unseen``
    has a combination that no image of ``train`` has. The folder appears only when it is complete.

    Args:
        destination: the new folder.
        count: number of training images, divided as in :data:`openhart.data.emoji.mixture.SHARES`.
        unseen: number of images with held-out combinations.
        seed: seed of all random choices.
        size: side of the images in pixels.
        styles: keys of :data:`openhart.data.emoji.packages.PACKAGES`.
        packages: a folder with the tarballs of the packages; None downloads them with npm.
        workers: number of drawing processes.
        quiet: show no progress bar.

    Returns:
        number of images per split and task.

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
        library = read_library(styles, packages or Path(scratch))
        counts = Counter[str]()
        for split in (
            Split(partial / "train", count, seed, styles, training_scenes),
            Split(partial / "unseen", unseen, seed, styles, unseen_scenes),
        ):
            counts += _write(split, library, size, workers, quiet)
        write_prompts(partial / "prompts", Sprites(library, size), styles, seed)
        (partial / "LICENSES.md").write_text(write_licences(library.sets))
    return dict(counts)


def _write(split: Split, library: Library, size: int, workers: int, quiet: bool) -> Counter[str]:
    """Draw the scenes of a split in several processes, and write their records in order."""
    split.folder.mkdir(parents=True)
    parts = [range(first, min(first + AT_A_TIME, split.count)) for first in range(0, split.count, AT_A_TIME)]
    lines, counts = [], Counter[str]()
    with (
        Pool(workers, _Painter.start, (split, library, size)) as pool,
        tqdm(desc=split.folder.name, total=split.count, disable=quiet) as bar,
    ):
        for records in pool.imap(_Painter.paint, parts):
            lines += [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
            counts.update(f"{split.folder.name} {record['tag']}" for record in records)
            bar.update(len(records))
    (split.folder / "metadata.jsonl").write_text("".join(lines))
    return counts


class _Painter:
    """Draws scenes in one process of a pool, which keeps its own sprites."""

    split: Split
    sprites: Sprites

    @classmethod
    def start(cls, split: Split, library: Library, size: int) -> None:
        cls.split, cls.sprites = split, Sprites(library, size)

    @classmethod
    def paint(cls, numbers: range) -> list[dict[str, Any]]:
        split, sprites = cls.split, cls.sprites
        records = []
        scenes = split.make(split.count, split.seed, sprites, split.styles, numbers)
        for number, scene in zip(numbers, scenes, strict=True):
            file_name = f"{number:06d}-{scene.content.tag}.png"
            compose(scene, sprites).save(split.folder / file_name)
            records.append({"file_name": file_name, **_record(scene, sprites, number)})
        return records


def _record(scene: Scene, sprites: Sprites, number: int) -> dict[str, Any]:
    content, library = scene.content, sprites.library
    item = content.items[0]
    as_it_is = content.tag == "single_object" and item.size is None and item.name == library.name(item.thing)
    if as_it_is:
        captions = library.captions(item.thing, content.style, content.background)
    else:
        chance = random.Random(f"{number} {content}")
        captions = scene_captions(content, library.default_style, library.synonyms, chance)
    alone = {"thing": item.thing} if len(scene.boxes) == 1 else {}
    return {
        "text": captions[0],
        "captions": captions,
        **alone,
        **facts(scene, sprites.size),
        "combination": "unseen" if content.unseen else "seen",
        **requirements(content),
        **library.credit(content.style),
    }
