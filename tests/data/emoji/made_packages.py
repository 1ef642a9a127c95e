"""Emoji packages made for tests: real SVG in real tarballs, few things."""

import io
import json
import tarfile

from openhart.data.emoji.packages import NAMES, PACKAGES

COMMON = {
    "red-apple": '<circle cx="16" cy="16" r="{r}" fill="#e02020"/><rect x="14" y="0" width="4" height="4" '
    'fill="#30b030"/>',
    "banana": '<ellipse cx="16" cy="16" rx="{r}" ry="5" fill="#f0c020"/>',
    "key": '<rect x="12" y="2" width="8" height="28" fill="#e8b820"/><circle cx="16" cy="6" r="{q}" '
    'fill="#e8b820"/>',
    "balloon": '<ellipse cx="16" cy="16" rx="8" ry="{r}" fill="#d82828"/>',
    "fish": '<path d="M2 16L{r} 4L30 16L{r} 28Z" fill="#3070e0"/>',
    "zebra": '<rect x="4" y="{q}" width="24" height="16" fill="#707070"/>',
    "umbrella": '<path d="M2 16A14 {r} 0 0 1 30 16Z" fill="#8040c0"/>',
    "alarm-clock": '<circle cx="16" cy="16" r="{r}" fill="#d03030"/><rect x="15" y="8" width="3" height="8" '
    'fill="#fff"/>',
}


def common_icons(radius):
    """Some common things; styles differ in their radius."""
    return {name: {"body": body.format(r=radius, q=radius - 7)} for name, body in COMMON.items()} | {
        "wrench": {"body": f'<rect x="2" y="2" width="{radius}" height="5" fill="#777"/>'}
    }


def style_files(style, drawings):
    """The files of a style's package."""
    info = {
        "name": style,
        "author": {"name": "Somebody", "url": "https://example.org"},
        "license": {"title": "MIT", "spdx": "MIT"},
    }
    data = {"icons": drawings, "width": 32, "height": 32}
    return {"icons.json": data, "metadata.json": {"categories": {}}, "info.json": info}


def write_style(folder, style, drawings):
    """Write the package of a style."""
    write_package(folder, PACKAGES[style], style_files(style, drawings))


def write_names(folder, labels=()):
    """Write the package of names."""
    entries = [{"label": label, "tags": []} for label in labels]
    write_package(folder, NAMES, {"en/data.json": entries})


def write_package(folder, name, files):
    """Write JSON files into a tarball named as npm does."""
    package, version = name.rsplit("@", 1)
    with tarfile.open(folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz", "w:gz") as archive:
        for path, value in files.items():
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
