"""Converting MAR: what is read, what is ignored, and what is said of files that are not right."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openhart.cli.main import main
from openhart.conversion.mar import convert_mar
from openhart.errors import UserError
from openhart.pipelines.mar import MarPipeline
from tests.hostile import saved_by_torch
from tests.parity.conftest import MAR

WEIGHTS = "diffusion_pytorch_model.safetensors"
KL, CHECKPOINT = "kl16.ckpt", "checkpoint-last.pth"


@pytest.fixture
def mar(tmp_path):
    return Path(shutil.copytree(MAR, tmp_path / "mar"))


def convert(folder, dst, **options):
    convert_mar(folder / KL, folder / CHECKPOINT, dst, **{"num_heads": 4, **options})


def read(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def edit(path, change):
    values = read(path)
    change(values)
    torch.save(values, path)


def is_tidy(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_settings_are_read_off_the_tensors(mar, tmp_path):
    convert(mar, tmp_path / "model")
    pipeline, shape = (
        MarPipeline.from_pretrained(tmp_path / "model"),
        json.loads((mar / "shape.json").read_text()),
    )
    config, head = pipeline.transformer.config, pipeline.diffusion_head.config
    assert (config.encoder_depth, config.decoder_depth, config.width, config.num_heads) == (2, 2, 64, 4)
    assert (list(config.size), config.buffer_tokens, config.patch_size) == ([6, 6], shape["buffer_size"], 1)
    assert (head.depth, head.width, head.clamp) == (shape["diffloss_d"], shape["diffloss_w"], False)
    assert pipeline.image_tokenizer.config.channel_multipliers == shape["vae"]["ch_mult"]
    assert not pipeline.image_tokenizer.config.decoder_attention
    assert pipeline.label_encoder.num_classes == shape["class_num"]
    assert pipeline.image_size == (shape["img_size"], shape["img_size"])
    assert is_tidy(tmp_path, "mar", "model")


def test_averaged_weights_unless_raw_ones_are_asked_for(mar, tmp_path):
    convert(mar, tmp_path / "ema")
    convert(mar, tmp_path / "raw", weights="raw")
    content = read(mar / CHECKPOINT)
    for folder, name in (("ema", "model_ema"), ("raw", "model")):
        found = load_file(tmp_path / folder / "transformer" / WEIGHTS)
        assert torch.equal(found["token_embed.weight"], content[name]["z_proj.weight"])
        bias = content[name]["encoder_blocks.0.attn.qkv.bias"]
        assert torch.equal(found["encoder_blocks.0.attention.v_bias"], bias[128:])
        labels = load_file(tmp_path / folder / "label_encoder" / WEIGHTS)["embedding.weight"]
        assert torch.equal(labels[-1], content[name]["fake_latent"][0])


def test_bare_tensors_may_be_raw_and_that_is_said(mar, tmp_path):
    save_file(read(mar / CHECKPOINT)["model"], mar / "mar-base.safetensors")
    save_file(read(mar / KL)["model"], mar / "kl16.safetensors")
    files = (mar / "kl16.safetensors", mar / "mar-base.safetensors")
    with pytest.warns(UserWarning, match="has no model_ema: it may hold the raw weights"):
        convert_mar(*files, tmp_path / "bare", num_heads=4)
    convert(mar, tmp_path / "raw", weights="raw")
    found, wanted = (load_file(tmp_path / name / "transformer" / WEIGHTS) for name in ("bare", "raw"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_keys_need_no_bias(mar, tmp_path):
    """Softmax cancels it, so it is left out whatever it is."""

    def change(values):
        for name, bias in values["model_ema"].items():
            if name.endswith("attn.qkv.bias"):
                bias[64:128] += 3

    convert(mar, tmp_path / "before")
    edit(mar / CHECKPOINT, change)
    convert(mar, tmp_path / "after")
    files = [tmp_path / name / "transformer" / WEIGHTS for name in ("before", "after")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_patches(mar, tmp_path):
    def change(values):
        state = values["model_ema"]
        state["z_proj.weight"] = state["z_proj.weight"].repeat(1, 4)
        head = "diffloss.net.{}"
        state[head.format("input_proj.weight")] = state[head.format("input_proj.weight")].repeat(1, 4)
        for name in ("weight", "bias"):
            last = head.format(f"final_layer.linear.{name}")
            state[last] = torch.cat([state[last]] * 4)

    edit(mar / CHECKPOINT, change)
    convert(mar, tmp_path / "model")
    transformer = MarPipeline.from_pretrained(tmp_path / "model").transformer
    assert (transformer.config.patch_size, transformer.size) == (2, (12, 12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("mask_token"), "lacks mask_token"),
        (
            lambda state: state.update(extra=torch.zeros(1)),
            "contains tensors that no released model has: extra",
        ),
        (lambda state: state.update({"z_proj.weight": torch.zeros(64, 17)}), "no square patches"),
        (lambda state: state.update(diffusion_pos_embed_learned=torch.zeros(1, 35, 64)), "no square"),
        (lambda state: state.update({"decoder_norm.bias": torch.zeros(3)}), "does not fit"),
        (lambda state: state.clear(), "lacks z_proj.weight"),
    ],
)
def test_tensors_that_are_not_right(mar, tmp_path, change, message):
    edit(mar / CHECKPOINT, lambda values: change(values["model_ema"]))
    with pytest.raises(UserError, match=message) as error:
        convert(mar, tmp_path / "model")
    assert CHECKPOINT in str(error.value)
    assert is_tidy(tmp_path, "mar")


def test_other_options_that_are_not_right(mar, tmp_path):
    for options, message in (
        ({"num_heads": None}, "no released MAR has the width 64: name its number of attention heads"),
        ({"num_heads": 7}, r"width must be a multiple of num_heads \(7\)"),
        ({"weights": "best"}, "weights must be ema or raw"),
    ):
        with pytest.raises(UserError, match=message):
            convert(mar, tmp_path / "model", **options)
    edit(mar / CHECKPOINT, lambda values: values.pop("model_ema"))
    with pytest.raises(UserError, match="has no model_ema: ask for the raw weights instead"):
        convert(mar, tmp_path / "model")
    with pytest.raises(UserError, match=r"lacks encoder\.conv_in\.weight"):
        convert_mar(mar / CHECKPOINT, mar / KL, tmp_path / "model", num_heads=4, weights="raw")
    assert is_tidy(tmp_path, "mar")


@pytest.mark.parametrize("name", [KL, CHECKPOINT])
@pytest.mark.parametrize("damage", ["missing", "cut short", "garbage", "hostile"])
def test_files_that_are_not_right(mar, tmp_path, name, damage):
    path, mark = mar / name, tmp_path / "harm"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(bytes(range(256)) * 8)
    elif damage == "hostile":
        saved_by_torch(mark, path)
    with pytest.raises(UserError) as error:
        convert(mar, tmp_path / "model")
    assert str(path) in str(error.value)
    assert is_tidy(tmp_path, "mar")


def test_the_command(mar, tmp_path, capsys):
    files = [str(mar / KL), str(mar / CHECKPOINT), str(tmp_path / "model")]
    assert main(["convert", "mar", *files]) == 1
    assert "name its number of attention heads" in capsys.readouterr().err
    assert main(["convert", "mar", *files, "--heads", "4"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "model")
    assert main(["convert", "mar", *files, "--heads", "4"]) == 1
    assert "exists already" in capsys.readouterr().err
