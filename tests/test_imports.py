"""Who may import whom, and how long it takes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import openhart

ROOT = Path(openhart.__file__).parent
PARTS = {"tokenizer", "conditioning", "transformer", "residual"}
COMMON = {
    "arithmetic", "chatter", "checks", "checksums", "atomic", "errors", "hub", "interrupts", "loading",
    "perceptual", "randomness", "reading", "safety", "scales", "sinusoids",
}  # fmt: skip
KNOWN_BY = {
    **{part: {part} | COMMON for part in PARTS},
    **dict.fromkeys(COMMON, COMMON),
    "generation": PARTS | COMMON | {"generation"},
    "model_files": PARTS | COMMON,
    "acceleration": PARTS | COMMON | {"acceleration"},
    "memory": PARTS | COMMON,
    "pipelines": PARTS | COMMON | {"generation", "model_files", "acceleration", "memory"},
    "conversion": PARTS | COMMON | {"conversion", "pipelines", "model_files"},
    "data": COMMON | {"data"},
    "serving": {"serving", "pipelines", "errors"},
}
NOBODY_KNOWS = {"cli", "cli_checks", "cli_commands", "cli_evaluate", "serving"}


def modules():
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        yield room, path


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("openhart."))


@pytest.mark.parametrize("room", sorted(KNOWN_BY))
def test_a_room_imports_only_what_it_may_know(room):
    known = {name for home, path in modules() if home == room for name in imported_rooms(path)}
    assert known <= KNOWN_BY[room]


def test_nobody_knows_the_faces():
    for room, path in modules():
        if room not in NOBODY_KNOWS | {"__main__"}:
            assert not NOBODY_KNOWS & set(imported_rooms(path)), path


def test_import_is_light():
    check = (
        "import sys, openhart, openhart.cli;"
        "sys.exit(str({'torch', 'diffusers', 'transformers'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_public_names_are_there():
    for name in openhart.__all__:
        assert getattr(openhart, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = openhart.nothing_of_that_name
