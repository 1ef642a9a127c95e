"""The emoji packages on npm: names, reading and licences.

Noto is under Apache-2.0, Fluent under MIT, Twemoji and EmojiOne under CC BY 4.0.
"""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openhart.errors import UserError, reason

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "fluent-3d": "@iconify-json/fluent-emoji@1.2.7",
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
}
NAMES = "emojibase-data@17.0.0"
DEFAULT_STYLES = ("noto", "fluent-3d", "fluent-flat")


def read_package(name: str, folder: Path, *files: str) -> dict[str, Any]:
    """Read JSON files of an npm package, which is downloaded if its tarball is missing.

    Args:
        name: package and version, such as ``@iconify-json/noto@1.2.9``.
        folder: folder of the tarballs.
        files: paths in the package; by default those of an Iconify icon set.

    Returns:
        the content of each file by its path in the package.

    Raises:
        UserError: if the package can be neither read nor downloaded.
    """
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
        raise UserError(f"{tarball} is not the package {name}: {reason(error)}") from error


def _fetch(name: str, folder: Path) -> None:
    if shutil.which("npm") is None:
        raise UserError(
            f"npm is needed to download {name}: install npm, or give a folder of tarballs with --packages"
        )
    done = subprocess.run(
        ["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"npm could not download {name}: {last}")


def read_styles(styles: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Read the packages of the given styles; missing packages are downloaded into the folder.

    Raises:
        UserError: if a style is unknown, if no style is given, or if a package can be neither read nor
            downloaded.
    """
    check_styles(styles)
    return {style: read_package(PACKAGES[style], folder) for style in styles}


def check_styles(styles: Sequence[str]) -> None:
    """Check that every style is a key of :data:`PACKAGES`.

    Raises:
        UserError: if a style is unknown, or if no style is given.
    """
    unknown = [style for style in styles if style not in PACKAGES]
    if unknown or not styles:
        raise UserError(f"styles must be among {', '.join(PACKAGES)}, got {', '.join(unknown) or 'none'}")


def write_licences(sets: dict[str, dict[str, Any]]) -> str:
    """Markdown text with author, licence and package of each style."""
    lines = ["# Sources and licences of the images", ""]
    for style, package in sets.items():
        info = package["info.json"]
        lines.append(
            f"- `{style}`: {info['name']} by {info['author']['name']} ({info['author']['url']}), "
            f"{info['license']['title']} ({info['license'].get('url', info['license']['spdx'])}), "
            f"drawn from the npm package {PACKAGES[style]}."
        )
    lines.append(f"- spelling of some names: {NAMES} (MIT).")
    return "\n".join(lines) + "\n"
