"""Which package may import which, and that importing OpenHART loads no heavy library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import openhart

ROOT = Path(openhart.__file__).parent
PARTS = {"tokenizer", "conditioning", "transformer", "residual"}
COMMON = {
    "arithmetic", "atomic", "checks", "checksums", "errors", "hub", "image_io", "interrupts", "loading",
    "onednn", "perceptual", "presets", "provenance", "quiet", "randomness", "reading",
    "safety", "scales", "sinusoids",
}  # fmt: skip
MODELS = PARTS | COMMON | {"generation", "model_files", "lora", "acceleration", "memory", "pipelines"}
MAY_IMPORT = {
    **{part: {part} | COMMON for part in PARTS},
    **dict.fromkeys(COMMON, COMMON),
    "generation": PARTS | COMMON | {"generation"},
    "model_files": PARTS | COMMON,
    "lora": PARTS | COMMON | {"model_files"},
    "acceleration": PARTS | COMMON | {"acceleration", "lora"},
    "memory": PARTS | COMMON,
    "pipelines": MODELS,
    "conversion": PARTS | COMMON | {"conversion", "pipelines", "model_files"},
    "data": COMMON | {"data"},
    "training": MODELS | {"data", "training"},
    "evaluation": MODELS | {"data", "evaluation"},
    "serving": COMMON | {"serving", "pipelines", "generation", "memory"},
    "integrations": {"integrations", "errors"},
}
"""Packages and modules directly below ``openhart``, and what each of them may import from there."""
ANYTHING = {"cli", "__init__", "__main__"}
FACES = {"cli", "serving", "integrations"}
"""What users call: no other package imports these."""
METRICS = "openhart.evaluation.metrics"
FILES = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "load", "save", "savez", "Path"}


def modules():
    for path in ROOT.rglob("*.py"):
        yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def imports(path):
    """Full names of the modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_packages(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("openhart.")}


def test_every_package_has_a_rule():
    there = {room for room, path in modules()}
    assert there - set(MAY_IMPORT) - ANYTHING == set()


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_it_may(room):
    found = {
        (path.name, name) for home, path in modules() if home == room for name in imported_packages(path)
    }
    assert {(file, name) for file, name in found if name not in MAY_IMPORT[room]} == set()


def test_no_package_imports_what_users_call():
    for room, path in modules():
        if room not in FACES | ANYTHING:
            assert not FACES & imported_packages(path), path


def test_metrics_are_functions_of_arrays_without_files():
    for path in (ROOT / "evaluation" / "metrics").glob("*.py"):
        names = [name for name in imports(path) if name.startswith("openhart.")]
        assert all(name.startswith((METRICS, "openhart.errors", "openhart.perceptual")) for name in names), (
            path
        )
        called = {
            node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        assert not called & FILES, path


def test_import_is_light():
    check = (
        "import sys, openhart, openhart.cli.main;"
        "sys.exit(str({'torch', 'diffusers', 'transformers'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_public_names_are_there():
    for name in openhart.__all__:
        assert getattr(openhart, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = openhart.nothing_of_that_name
