"""Building the scenes: single things, colours, counts, pairs and positions with exact captions."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from openhart.atomic import check_new_folder, folder_written_whole
from openhart.data.emoji.drawing import require_renderer
from openhart.data.emoji.library import read_library
from openhart.data.emoji.mixture import training_scenes, unseen_scenes
from openhart.data.emoji.packages import check_styles, write_licences
from openhart.data.emoji.prompts import write_prompts
from openhart.data.emoji.scenes import Scene, compose, facts
from openhart.data.emoji.sentences import requirements, scene_captions
from openhart.data.emoji.sprites import Sprites
from openhart.errors import UserError

SCENE_STYLES = ("fluent-3d", "fluent-flat", "noto")


def build_scenes(
    destination: Path,
    *,
    count: int = 24_000,
    unseen: int = 600,
    seed: int = 0,
    size: int = 128,
    styles: Sequence[str] = SCENE_STYLES,
    packages: Path | None = None,
    quiet: bool = False,
) -> dict[str, int]:
    """Draw and caption scenes; equal arguments give equal files.

    Makes ``train`` and ``unseen``, each an ``imagefolder`` with ``metadata.jsonl`` (keys ``file_name``,
    ``text``, ``captions``, the facts of :func:`openhart.data.emoji.scenes.facts`, ``include``, for counting
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
        sprites = Sprites(library, size)
        scenes = training_scenes(count, seed, sprites, styles)
        counts = _write(partial / "train", scenes, count, sprites, quiet)
        scenes = unseen_scenes(unseen, seed, sprites, styles)
        counts += _write(partial / "unseen", scenes, unseen, sprites, quiet)
        write_prompts(partial / "prompts", sprites, styles, seed)
        (partial / "LICENSES.md").write_text(write_licences(library.sets))
    return dict(counts)


def _write(folder: Path, scenes: Iterable[Scene], count: int, sprites: Sprites, quiet: bool) -> Counter[str]:
    folder.mkdir(parents=True)
    lines, counts = [], Counter[str]()
    for index, scene in enumerate(tqdm(scenes, folder.name, count, disable=quiet)):
        file_name = f"{index:06d}-{scene.content.tag}.png"
        compose(scene, sprites).save(folder / file_name)
        record = {"file_name": file_name, **_record(scene, sprites, index)}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        counts[f"{folder.name} {scene.content.tag}"] += 1
    (folder / "metadata.jsonl").write_text("".join(lines))
    return counts


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
        **requirements(content),
        **library.credit(content.style),
    }
