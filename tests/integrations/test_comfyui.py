"""The ComfyUI nodes, in a stand-in that follows ComfyUI's interface, and in ComfyUI itself where it is given.

``OPENHART_TEST_COMFYUI`` names a checkout of ComfyUI whose requirements are installed beside OpenHART.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.integrations.comfyui import FOLDER, Comfy, InterruptedByUserError, execute, load_nodes

COMFYUI = os.environ.get("OPENHART_TEST_COMFYUI")


@pytest.fixture
def comfy(text_model, label_model, tmp_path, monkeypatch):
    (tmp_path / "openhart").mkdir()
    (tmp_path / "openhart" / "tiny").symlink_to(text_model)
    (tmp_path / "openhart" / "classes").symlink_to(label_model)
    stand_in = Comfy(tmp_path)
    for name, module in stand_in.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


def workflow(model="tiny", prompt="a red apple", **generate):
    nodes = json.loads((FOLDER / "example.json").read_text())
    nodes["1"]["inputs"].update(model=model, optimize="none")
    nodes["2"]["inputs"].update(prompt=prompt)
    nodes["3"]["inputs"].update(generate)
    return nodes


def as_tensor(image):
    return torch.from_numpy(np.array(image)).float() / 255


def direct(pipeline, seeds, prompt="a red apple", **values):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline([prompt] * len(seeds), generator=generators, **values).images
    return torch.stack([as_tensor(image) for image in images])


def test_the_example_runs_and_gives_the_images_of_the_pipeline(comfy, text_pipeline):
    outputs = execute(workflow(seed=3), load_nodes())
    images, scales = outputs["3"]
    assert torch.equal(images, direct(text_pipeline, [3, 4]))
    assert images.dtype == torch.float32
    assert torch.equal(scales[-1], images[0])
    assert len(scales) == text_pipeline.num_timesteps
    assert outputs["4"][0].shape == outputs["4"][1].shape == images.shape


def test_a_preview_is_shown_after_each_scale(comfy, text_pipeline):
    execute(workflow(), load_nodes())
    total = text_pipeline.num_timesteps
    assert [shown[:2] for shown in comfy.shown] == [(number, total) for number in range(1, total + 1)]
    for _, _, (kind, image, side) in comfy.shown:
        assert kind == "JPEG"
        assert image.size == (text_pipeline.check_size(None, None)[1],) * 2
        assert side > 0


def test_cancel_ends_generation_after_the_present_scale(comfy):
    comfy.stop_after = 2
    with pytest.raises(InterruptedByUserError):
        execute(workflow(), load_nodes())
    assert len(comfy.shown) == 2


def test_settings_of_the_node_replace_those_of_the_model(comfy, text_pipeline):
    sampling = {"guidance_scale": 1.5, "top_k": 2, "top_p": 1.0, "use_residual": False}
    nodes = workflow(own_settings=False, count=1, **sampling)
    assert torch.equal(execute(nodes, load_nodes())["3"][0], direct(text_pipeline, [0], **sampling))


def test_a_negative_prompt_is_used(comfy, text_pipeline):
    nodes = workflow(count=1)
    nodes["2"]["inputs"]["negative_prompt"] = "a cat"
    wanted = direct(text_pipeline, [0], negative_prompt="a cat")
    assert torch.equal(execute(nodes, load_nodes())["3"][0], wanted)


def test_a_class_is_given_as_a_number(comfy, label_pipeline):
    images = execute(workflow("classes", "3", count=1), load_nodes())["3"][0]
    generator = torch.Generator().manual_seed(0)
    wanted = label_pipeline(class_labels=3, generator=[generator]).images[0]
    assert torch.equal(images[0], as_tensor(wanted))
    with pytest.raises(ValueError, match="number of a class"):
        execute(workflow("classes", "a cat"), load_nodes())


@pytest.mark.parametrize("size", [(20, 33), (64, 40), (7, 7)])
def test_images_of_every_size_are_reconstructed(comfy, text_pipeline, size):
    classes = load_nodes()
    image = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    made = classes["OpenHARTReconstruct"]().reconstruct(text_pipeline, image)
    for each in made:
        assert each.shape == (2, *text_pipeline.check_size(None, None), 3)
        assert each.min() >= 0
        assert each.max() <= 1
    assert not torch.equal(*made)


def test_the_registry_gets_what_it_requires():
    described = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    name = described["project"]["name"]
    assert "comfyui" not in name.lower()
    assert len(name) < 100
    assert set(described["tool"]["comfy"]) >= {"PublisherId", "DisplayName"}
    assert described["project"]["license"]
    required = (FOLDER / "requirements.txt").read_text().split()
    assert required == described["project"]["dependencies"]


@pytest.mark.slow
@pytest.mark.skipif(COMFYUI is None, reason="OPENHART_TEST_COMFYUI names no checkout of ComfyUI")
def test_comfyui_itself_executes_the_example(text_model, tmp_path):
    (tmp_path / "models" / "openhart").mkdir(parents=True)
    (tmp_path / "models" / "openhart" / "tiny").symlink_to(text_model)
    (tmp_path / "workflow.json").write_text(json.dumps(workflow()))
    script = Path(__file__).with_name("run_in_comfyui.py")
    command = [sys.executable, str(script), str(FOLDER), "--base-directory", str(tmp_path), "--cpu"]
    done = subprocess.run(command, cwd=COMFYUI, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["success"], answer
    assert answer["previews"] >= 2
    assert len(list((tmp_path / "output").glob("openhart_*.png"))) == 2
