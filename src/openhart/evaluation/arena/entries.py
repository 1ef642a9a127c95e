"""The images that an arena compares: files of the same name in two or more folders."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openhart.errors import UserError
from openhart.evaluation.image_folders import find_images
from openhart.reading import read_json_lines

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""The file types that every browser shows."""
RECORDS = "metadata.jsonl"


@dataclass(frozen=True)
class Entries:
    """What is compared.

    Attributes:
        folders: name of each model → its folder.
        names: paths of the images below each folder, without the suffix, sorted.
        files: per model and name, the file.
        prompts: name → prompt; names without a known prompt are absent.
        digests: per model, a hash of its images' contents.
    """

    folders: Mapping[str, Path]
    names: tuple[str, ...]
    files: Mapping[str, Mapping[str, Path]]
    prompts: Mapping[str, str]
    digests: Mapping[str, str]


def find_entries(folders: Sequence[Path]) -> Entries:
    """Match the images of several folders by their paths.

    A prompt is taken from a ``metadata.jsonl`` beside the images (``file_name`` and ``text``, ``captions`` or
    ``prompt``) or, in GenEval's layout, from the ``metadata.jsonl`` above ``samples/``.

    Args:
        folders: one per model; the model is called by the folder's name.

    Raises:
        UserError: fewer than two folders, folders of equal names, or images that one of them lacks.
    """
    if len(folders) < 2:
        raise UserError("an arena compares at least two folders")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(f"the folders must have different names, got {', '.join(names)}")
    files = {name: _images(folder) for name, folder in zip(names, folders, strict=True)}
    _check_same(files, dict(zip(names, folders, strict=True)))
    common = tuple(sorted(files[names[0]]))
    prompts: dict[str, str] = {}
    for folder in reversed(folders):
        prompts |= _prompts(folder)
    return Entries(
        folders=dict(zip(names, folders, strict=True)),
        names=common,
        files=files,
        prompts={name: prompts[name] for name in common if name in prompts},
        digests={name: _digest(files[name]) for name in names},
    )


def _images(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in MEDIA_TYPES:
            raise UserError(f"browsers do not show {path}: convert it to PNG, JPEG or WebP")
        if name in found:
            raise UserError(f"{folder} has two images called {name}: keep one file type")
        found[name] = path
    return found


def _check_same(files: Mapping[str, Mapping[str, Path]], folders: Mapping[str, Path]) -> None:
    everything = {name for images in files.values() for name in images}
    for model, images in files.items():
        missing = sorted(everything - images.keys())
        if missing:
            raise UserError(
                f"{folders[model]} lacks {len(missing)} of {len(everything)} images, such as {missing[0]}: "
                "all folders must have the same file names"
            )


def _prompts(folder: Path) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for path in folder.rglob(RECORDS):
        place = path.parent.relative_to(folder).as_posix()
        for number, record in enumerate(read_json_lines(path)):
            text = _text(record)
            if not text:
                continue
            if "file_name" in record:
                prompts[Path(place, str(record["file_name"])).with_suffix("").as_posix()] = text
            elif number == 0:
                samples = (path.parent / "samples").glob("*")
                prompts |= {p.relative_to(folder).with_suffix("").as_posix(): text for p in samples}
    return prompts


def _text(record: Mapping[str, Any]) -> str:
    captions = record.get("captions")
    first = captions[0] if isinstance(captions, list) and captions else None
    return str(record.get("prompt") or record.get("text") or first or "")


def _digest(images: Mapping[str, Path]) -> str:
    whole = hashlib.sha256()
    for name in sorted(images):
        with images[name].open("rb") as file:
            whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
