"""The Space: its images, its metadata and, where gradio is installed, its interface."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import yaml

from openhart.errors import UserError

FOLDER = Path(__file__).parents[2] / "integrations" / "space"


@pytest.fixture
def space(text_model, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("OPENHART_MODEL", str(text_model))
    for name in ("drawing", "app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("drawing")


def test_every_scale_is_drawn_and_the_last_is_the_image(space, text_pipeline):
    drawn = list(space.draw("a cat", 3, 2.0))
    assert [line for _, line in drawn] == [f"scale {k + 1} of {len(drawn)}" for k in range(len(drawn))]
    generator = torch.Generator().manual_seed(3)
    assert drawn[-1][0] == text_pipeline("a cat", generator=[generator], guidance_scale=2.0).images[0]


def test_wrong_values_are_refused(space):
    with pytest.raises(UserError):
        list(space.draw("a cat", 0, -1))


def test_the_metadata_names_files_that_exist():
    front = yaml.safe_load((FOLDER / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert (FOLDER / front["app_file"]).is_file()
    assert {"title", "sdk_version", "license"} <= set(front)
    assert "openhart" in (FOLDER / "requirements.txt").read_text().split()


def test_the_interface_shows_the_scales(space):
    gradio = pytest.importorskip("gradio")
    app = importlib.import_module("app")
    shown = list(app.show("a cat", 3, True, 2.0))
    assert shown[-1][0] == list(space.draw("a cat", 3, 2.0))[-1][0]
    assert {seed for _, _, seed in shown} == {3}
    with pytest.raises(gradio.Error):
        list(app.show("  ", 3, True, 2.0))
