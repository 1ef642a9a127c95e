"""A damaged model or adapter is refused in one sentence, or a warning reports the change."""

import json
import shutil
import warnings

import pytest
import torch

from openhart.checksums import FILE, write_checksums
from openhart.cli import main
from openhart.errors import UserError
from openhart.lora import FILE as LORA_FILE
from openhart.lora import add_lora, load_lora, save_lora
from openhart.model_files import load_image_tokenizer
from openhart.pipelines.hart import HartPipeline
from openhart.tokenizer.model import HybridTokenizer
from tests.damage import damages, flipped
from tests.tiny import tiny_tokenizer, tiny_transformer

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(label_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    label_pipeline.save_pretrained(folder)
    return folder


def picture(folder):
    """The model's picture, and what it warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pipeline = HartPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(class_labels=1, generator=torch.Generator().manual_seed(0), output_type="pt").images
    return image, [str(warning.message) for warning in told]


PARTS = ("image_tokenizer", "transformer", "label_encoder")
FILES = [f"{part}/{name}" for part in PARTS for name in ("config.json", WEIGHTS)]


@pytest.mark.parametrize("name", ["model_index.json", *FILES])
def test_every_damaged_file_is_reported(model, tmp_path, name):
    before, told = picture(model)
    assert not told
    copy = shutil.copytree(model, tmp_path / "copy")
    for what, content in damages(copy / name, seed=1):
        (copy / name).write_bytes(content)
        refusal = None
        try:
            after, told = picture(copy)
        except UserError as error:
            refusal = str(error)
        if refusal is not None:
            assert "\n" not in refusal, what
            continue
        changed = any(f"{name} has been changed since" in warning for warning in told)
        assert torch.equal(before, after) or changed, what
        assert changed == name.endswith(".json"), what


def test_a_turned_bit_of_any_weight_is_noticed(model, tmp_path, capsys):
    for part in PARTS:
        copy = shutil.copytree(model, tmp_path / part)
        path = copy / part / WEIGHTS
        content = path.read_bytes()
        path.write_bytes(flipped(content, len(content) - 4, 1))
        assert main(["generate", "--label", "1", "--model", str(copy), "-o", str(tmp_path / "a.png")]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{path} is missing, damaged or was changed" in said
        with pytest.raises(UserError, match="damaged"):
            load_image_tokenizer(copy) if part == "image_tokenizer" else HartPipeline.from_pretrained(copy)
        (copy / FILE).unlink()  # as the message says, if the change is meant
        HartPipeline.from_pretrained(copy)
    assert not (tmp_path / "a.png").exists()


def test_settings_changed_by_hand_are_accepted_and_reported_once(model, tmp_path, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    path = copy / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling": {"guidance_scale": 1.0}}))
    command = ["generate", "--label", "1", "--quiet", "--model", str(copy), "-o", str(tmp_path / "a.png")]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model_index.json has been changed since the model was saved" in said
    write_checksums(copy)
    assert main(command) == 0
    assert not capsys.readouterr().err


def test_a_tokenizer_alone_has_checksums_too(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    write_checksums(tmp_path)
    load_image_tokenizer(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(flipped(content, len(content) // 2, 1))
    for load in (load_image_tokenizer, HybridTokenizer.from_pretrained):
        with pytest.raises(UserError, match="damaged"):
            load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a.safetensors": 3}', b"\xff"])
def test_damaged_checksums_are_reported(model, tmp_path, content):
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"checksums\.json"):
        picture(copy)


def test_a_damaged_adapter_is_reported(tmp_path):
    pytest.importorskip("peft")

    transformer = tiny_transformer()
    add_lora(transformer, 2, 2.0, ["up"])
    save_lora(transformer, tmp_path)
    load_lora(tiny_transformer(), tmp_path)
    path = tmp_path / LORA_FILE
    for what, content in damages(path, seed=2):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_lora(tiny_transformer(), tmp_path)
        assert "\n" not in str(caught.value), what
