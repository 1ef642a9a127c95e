"""Releases of VQGAN: kinds of condition, and files that are damaged or something else."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from openhart.cli.main import main
from openhart.conversion.vqgan import convert_vqgan
from openhart.conversion.vqgan_files import DATA_CLASSES
from openhart.conversion.weights import read_content
from openhart.errors import UserError
from openhart.pipelines.vqgan import VqganPipeline
from openhart.tokenizer.vqgan import VqganTokenizer

RELEASED = Path(__file__).parents[1] / "parity" / "vqgan-tiny" / "transformer"
CONFIG, CHECKPOINT = "configs/2021-04-03T19-39-50-project.yaml", "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def tensors():
    return read_content(RELEASED / CHECKPOINT, DATA_CLASSES)["state_dict"]


@pytest.fixture
def release(tmp_path, tensors):
    """Writes a release with another configuration or other tensors; returns its folder."""
    folder = tmp_path / "released"
    shutil.copytree(RELEASED, folder)

    def write(config=None, changed=None, removed=()):
        path = folder / CONFIG
        content = yaml.safe_load(path.read_text())
        content["model"]["params"] |= config or {}
        path.write_text(yaml.safe_dump(content))
        kept = {name: value for name, value in tensors.items() if name not in removed}
        torch.save({"state_dict": kept | (changed or {})}, folder / CHECKPOINT)
        return folder

    return write


def convert(folder, tmp_path):
    convert_vqgan(folder, tmp_path / "model")
    return VqganPipeline.from_pretrained(tmp_path / "model")


def test_the_command_makes_a_pipeline(tmp_path, capsys):
    assert main(["convert", "vqgan", str(RELEASED), str(tmp_path / "model")]) == 0
    assert str(tmp_path / "model") in capsys.readouterr().out
    image = VqganPipeline.from_pretrained(tmp_path / "model")(class_labels=3).images[0]
    assert image.size == (32, 32)


@pytest.mark.parametrize(
    "config", [{"cond_stage_config": "__is_unconditional__", "sos_token": 3}, {"unconditional": True}]
)
def test_an_unconditional_model_starts_from_the_start_token(release, tmp_path, tensors, config):
    pipeline = convert(release(config), tmp_path)
    table = tensors["transformer.tok_emb.weight"]
    start = config.get("sos_token", 0)
    assert torch.equal(pipeline.label_encoder.embedding.weight, table[start : start + 1])
    assert pipeline(output_type="pt").images.shape == (1, 3, 32, 32)


def longer_positions(tensors):
    positions = tensors["transformer.pos_emb"]
    return {"transformer.pos_emb": torch.cat([positions, positions], dim=1)}


def test_a_model_conditioned_on_its_own_codes(release, tmp_path, tensors):
    first = "first_stage_model."
    twice = {n.replace(first, "cond_stage_model."): v for n, v in tensors.items() if n.startswith(first)}
    folder = release({"cond_stage_config": "__is_first_stage__"}, longer_positions(tensors) | twice)
    pipeline = convert(folder, tmp_path)
    assert pipeline.transformer.config.context_tokens == 64
    assert pipeline(condition_image=torch.zeros(1, 3, 32, 32), output_type="pt").images.isfinite().all()


def test_a_model_conditioned_on_another_tokenizer(release, tmp_path, tensors):
    first = "first_stage_model."
    other = {n.replace(first, "cond_stage_model."): v for n, v in tensors.items() if n.startswith(first)}
    other["cond_stage_model.encoder.conv_in.weight"] = torch.randn(32, 5, 3, 3)
    other["cond_stage_model.decoder.conv_out.weight"] = torch.randn(5, 32, 3, 3)
    other["cond_stage_model.decoder.conv_out.bias"] = torch.zeros(5)
    other["cond_stage_model.colorize"] = torch.zeros(3, 5, 1, 1)
    own = yaml.safe_load((RELEASED / CONFIG).read_text())["model"]["params"]["first_stage_config"]
    condition = own | {"target": "taming.models.vqgan.VQSegmentationModel"}
    folder = release({"cond_stage_config": condition}, longer_positions(tensors) | other)
    pipeline = convert(folder, tmp_path)
    assert pipeline.condition_tokenizer.config.in_channels == 5
    made = pipeline(condition_image=torch.zeros(1, 5, 32, 40), width=40, output_type="pt").images
    assert made.shape == (1, 3, 32, 40)


def test_a_gumbel_tokenizer(tmp_path, tensors):
    first = "first_stage_model."
    own = {n.removeprefix(first): v for n, v in tensors.items() if n.startswith(first)}
    table = own.pop("quantize.embedding.weight")
    proj = torch.randn(64, 8, 1, 1)
    own |= {
        "quantize.embed.weight": table,
        "quantize.proj.weight": proj,
        "quantize.proj.bias": torch.zeros(64),
    }
    params = {"ddconfig": {"resolution": 32}}
    (tmp_path / "model.yaml").write_text(
        yaml.safe_dump({"model": {"target": "a.GumbelVQ", "params": params}})
    )
    torch.save({"state_dict": own}, tmp_path / "last.ckpt")
    convert_vqgan(tmp_path, tmp_path / "converted")
    tokenizer = VqganTokenizer.from_pretrained(tmp_path / "converted")
    with torch.no_grad():
        features = tokenizer.encode(torch.zeros(1, 3, 32, 32))
        scores = torch.nn.functional.conv2d(features, proj)
    assert torch.equal(tokenizer.quantize(features).codes[0], scores.argmax(dim=1).flatten(1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transformer_config": {"target": "GPT", "params": {}}}, "n_head is missing"),
        (
            {"transformer_config": {"target": "GPT", "params": {"n_head": 4, "n_unmasked": 2}}},
            "n_unmasked must be 0",
        ),
        ({"permuter_config": {"target": "taming.ZCurve"}}, "only raster order is read"),
        ({"cond_stage_config": "__is_something__"}, "which no released model has"),
        (
            {"cond_stage_config": {"target": "taming.modules.util.Labelator"}, "transformer_config": 3},
            "must be a mapping of names to values",
        ),
    ],
)
def test_configurations_that_cannot_be_read(release, tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        convert_vqgan(release(config), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changed", "removed", "message"),
    [
        ({}, ["transformer.head.weight"], "lacks transformer.head.weight"),
        ({}, ["first_stage_model.quant_conv.bias"], "lacks first_stage_model.quant_conv.bias"),
        (
            {"transformer.more": torch.zeros(1)},
            [],
            "contains tensors that no released model has: transformer.more",
        ),
        ({"transformer.pos_emb": torch.zeros(1, 60, 48)}, [], "has 60 positions"),
    ],
)
def test_checkpoints_that_do_not_fit(release, tmp_path, changed, removed, message):
    with pytest.raises(UserError, match=message):
        convert_vqgan(release(None, changed, removed), tmp_path / "model")
    assert not (tmp_path / "model").exists()


class Hostile:
    def __reduce__(self):
        return (Path("ran").touch, ())


def test_files_that_are_missing_damaged_or_hostile(release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        convert_vqgan(tmp_path / "nothing", tmp_path / "model")
    folder = release()
    checkpoint, config = folder / CHECKPOINT, folder / CONFIG
    torch.save({"state_dict": {}, "callbacks": Hostile()}, checkpoint)
    with pytest.raises(UserError, match="damaged, or contains more than weights"):
        convert_vqgan(folder, tmp_path / "model")
    assert not Path("ran").exists()
    checkpoint.write_bytes(b"PK\x03\x04cut")
    with pytest.raises(UserError, match="damaged, or contains more than weights"):
        convert_vqgan(folder, tmp_path / "model")
    checkpoint.unlink()
    with pytest.raises(UserError, match="contains no checkpoint"):
        convert_vqgan(folder, tmp_path / "model")
    shutil.copy(config, config.with_name("other.yaml"))
    with pytest.raises(UserError, match="several files that may be its configuration"):
        convert_vqgan(folder, tmp_path / "model")
    config.with_name("other.yaml").unlink()
    config.write_text("model: {target: torch.nn.Linear}")
    with pytest.raises(UserError, match="which is no VQGAN"):
        convert_vqgan(folder, tmp_path / "model")
    config.write_text("{")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        convert_vqgan(folder, tmp_path / "model")
