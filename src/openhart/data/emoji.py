"""A corpus of captioned pictures from emoji sets that install as packages.

Every thing is drawn by several hands, has a name, and may be used: Noto is under Apache-2.0, Fluent under
MIT, Twemoji and EmojiOne under CC BY 4.0. Whole things are held out, chosen by a hash of their names, so
that the split stays the same when packages change and no style of a held-out thing is ever trained on.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from openhart.data.captions import write_captions
from openhart.errors import UserError

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "fluent-3d": "@iconify-json/fluent-emoji@1.2.7",
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
}
NAMES = "emojibase-data@17.0.0"
DEFAULT_STYLES = ("noto", "fluent-3d", "fluent-flat")
STYLES_OF_BARE_CAPTIONS = ("fluent-3d", "noto")
BACKGROUNDS = {
    "light blue": (173, 216, 240),
    "pink": (255, 192, 210),
    "yellow": (255, 230, 110),
    "mint green": (170, 235, 200),
    "lavender": (215, 200, 245),
    "orange": (255, 180, 100),
    "grey": (200, 200, 200),
    "black": (20, 20, 20),
}
HELD_OUT_ONE_IN = 17
COLOURED_ONE_IN = 3
FILLED = 0.875
OVERSAMPLING = 2
LEFT_OUT = re.compile(
    r"skin-tone|-(light|dark|medium|medium-light|medium-dark)$|-(light|dark|medium)-|flag|keycap|button"
    r"|^[0-9a-z]$|arrow|-sign$|-square$|-circle$|letter|mahjong|input-|oclock|thirty|joker|^(light|medium"
    r"|dark)|calendar|tear-off|-symbol$|medium-star|facing-(right|left)$|^(abc|abcd|cl|id|ok|vs|up|new|free|cool)$"
)


@dataclass(frozen=True)
class Icon:
    """One drawing: its style, its name with hyphens, its SVG and its width over height."""

    style: str
    name: str
    svg: str
    ratio: float

    @property
    def thing(self) -> str:
        """What it shows, in words."""
        return self.name.replace("-", " ")


@dataclass(frozen=True)
class Task:
    """One icon to be drawn at a size, once for each background, below a folder."""

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
    ``text``, ``captions``, ``thing``, ``style``, ``background``, ``license``, ``source``), and
    ``LICENSES.md``. The folder appears whole or not at all.

    Args:
        destination: the folder to make.
        size: side of the pictures in pixels.
        styles: keys of :data:`PACKAGES`.
        packages: a folder with the packages' tarballs; None fetches them with npm.
        workers: processes that draw.
        quiet: show no progress bar.

    Returns:
        number of pictures in each split and style.

    Raises:
        UserError: an unknown style, a destination that is not empty, npm or the SVG renderer missing.
    """
    unknown = [style for style in styles if style not in PACKAGES]
    if unknown or not styles:
        raise UserError(f"styles must be among {', '.join(PACKAGES)}, got {', '.join(unknown)}")
    if size < 16:
        raise UserError(f"size must be at least 16 pixels, got {size}")
    destination = Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} is not empty: name a new folder")
    _require_renderer()
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            counts = _build(partial, size, styles, packages or Path(scratch), workers, quiet)
        if destination.exists():
            destination.rmdir()
        os.replace(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def is_held_out(thing: str) -> bool:
    """Whether a thing belongs to the test split."""
    return _hash(thing) % HELD_OUT_ONE_IN == 0


def _build(
    folder: Path, size: int, styles: Sequence[str], packages: Path, workers: int, quiet: bool
) -> dict[str, int]:
    sets = {style: _read_package(PACKAGES[style], packages) for style in styles}
    icons = list(_icons(sets))
    names = _names(_read_package(NAMES, packages, "en/data.json")["en/data.json"])
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    tasks = [Task(icon, size, _backgrounds_of(icon), folder / _split_of(icon.thing)) for icon in icons]
    drawn: dict[str, set[str]] = {style: set() for style in styles}
    for icon in icons:
        drawn[icon.style].add(icon.thing)
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
                record = _record(task.icon, background, file_name, names, drawn, sets)
                records[task.folder.name].append(record)
    for split, lines in records.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / split / "metadata.jsonl").write_text(text)
    (folder / "LICENSES.md").write_text(_licenses(sets))
    return dict(Counter(f"{split} {line['style']}" for split, lines in records.items() for line in lines))


def _require_renderer() -> None:
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise UserError("drawing emoji needs more packages: pip install 'openhart[data]'") from error


def _read_package(name: str, folder: Path, *files: str) -> dict[str, Any]:
    """JSON files of an npm package, by their path in it."""
    wanted = files or ("icons.json", "metadata.json", "info.json")
    package, version = name.rsplit("@", 1)
    tarball = folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        _fetch(name, folder)
    try:
        with tarfile.open(tarball) as archive:
            members = {file: archive.extractfile(f"package/{file}") for file in wanted}
            return {file: json.load(member) for file, member in members.items() if member}
    except (OSError, KeyError, tarfile.TarError, json.JSONDecodeError) as error:
        raise UserError(f"{tarball} is not the package {name}: {error}") from error


def _fetch(name: str, folder: Path) -> None:
    if shutil.which("npm") is None:
        raise UserError(
            f"npm is needed to fetch {name}: install it, or name a folder of tarballs with --packages"
        )
    done = subprocess.run(
        ["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"npm could not fetch {name}: {reason}")


def _icons(sets: dict[str, dict[str, Any]]) -> Iterator[Icon]:
    """Icons of things: no flags, symbols, letters or skin tones."""
    unwanted = {
        name
        for package in sets.values()
        for category in ("Flags", "Symbols", "Modifiers")
        for name in package["metadata.json"].get("categories", {}).get(category, [])
    }
    for style, package in sets.items():
        data = package["icons.json"]
        for name, icon in data["icons"].items():
            if icon.get("hidden") or name in unwanted or LEFT_OUT.search(name):
                continue
            width = icon.get("width", data.get("width", 16))
            height = icon.get("height", data.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
            )
            yield Icon(style, name, svg, width / height)


def _draw(task: Task) -> dict[str, tuple[str, str]]:
    """Draw an icon on each background; file name and digest of the pixels, by background."""
    import resvg_py

    long_side = task.size * OVERSAMPLING
    ratio = task.icon.ratio
    width, height = round(long_side * min(1, ratio)), round(long_side * min(1, 1 / ratio))
    png = resvg_py.svg_to_bytes(svg_string=task.icon.svg, width=width, height=height)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = drawing.getchannel("A").getbbox()
    if box is None:
        return {}
    drawing = drawing.crop(box)
    factor = task.size * FILLED / max(drawing.size)
    sides = [max(1, round(side * factor)) for side in drawing.size]
    drawing = drawing.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
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


def _record(
    icon: Icon,
    background: str,
    file_name: str,
    names: dict[str, str],
    drawn: dict[str, set[str]],
    sets: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    styles = [style for style in STYLES_OF_BARE_CAPTIONS if icon.thing in drawn.get(style, ())]
    name = names.get(icon.thing, icon.thing)
    captions = write_captions(name, icon.style, background, icon.style in styles[:1])
    info = sets[icon.style]["info.json"]
    return {
        "file_name": file_name,
        "text": captions[0],
        "captions": captions,
        "thing": icon.thing,
        "style": icon.style,
        "background": background,
        "license": info["license"]["spdx"],
        "source": info["author"]["url"],
    }


def _names(entries: list[dict[str, Any]]) -> dict[str, str]:
    """How Emojibase writes each thing: ``womans hat`` is a woman's hat, ``man beard`` a man with beard."""
    names = {}
    for entry in entries:
        label = entry["label"].lower()
        plain = re.sub(r"[^a-z0-9 ]", "", label.replace("-", " "))
        written = label.replace(": bald", " who is bald").replace(": ", " with ").replace("’", "'")
        names[plain] = re.sub(r"[^a-z0-9' -]", "", written)
    return names


def _licenses(sets: dict[str, dict[str, Any]]) -> str:
    lines = ["# Where the pictures come from", ""]
    for style, package in sets.items():
        info = package["info.json"]
        lines.append(
            f"- `{style}`: {info['name']} by {info['author']['name']} ({info['author']['url']}), "
            f"{info['license']['title']} ({info['license'].get('url', info['license']['spdx'])}), "
            f"drawn from the npm package {PACKAGES[style]}."
        )
    lines.append(f"- spelling of some names: {NAMES} (MIT).")
    return "\n".join(lines) + "\n"


def _backgrounds_of(icon: Icon) -> tuple[str, ...]:
    if _hash(icon.style + icon.name) % COLOURED_ONE_IN:
        return ("white",)
    colours = list(BACKGROUNDS)
    return ("white", colours[_hash(icon.name + icon.style + "b") % len(colours)])


def _split_of(thing: str) -> str:
    return "test" if is_held_out(thing) else "train"


def _hash(text: str) -> int:
    return int(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), 16)
