"""Converters: what they read, what they ignore, and what they say of files that are not right."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openhart.conversion.hart import convert_hart
from openhart.conversion.keys import RESIDUAL_HEAD, TRANSFORMER, rename, tokenizer_rules
from openhart.conversion.var import convert_var
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline

RECORDED = Path(__file__).parents[1] / "parity"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def hart(tmp_path):
    return Path(shutil.copytree(RECORDED / "hart-t2i-tiny", tmp_path / "hart"))


@pytest.fixture
def var(tmp_path):
    return Path(shutil.copytree(RECORDED / "var-c2i-tiny", tmp_path / "var"))


def convert_small_var(folder, dst, **settings):
    convert_var(folder / "vae.pth", folder / "var.pth", dst, **settings)


def edit(path, change):
    """Rewrite a file of tensors or a JSON file in place."""
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    elif path.suffix == ".safetensors":
        values = load_file(path)
        values = {name: tensor.clone() for name, tensor in values.items()}
        change(values)
        save_file(values, path)
    else:
        values = torch.load(path, weights_only=True)
        change(values)
        torch.save(values, path)


def is_tidy(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_rename():
    assert rename("blocks.3.mlp.gate.weight", TRANSFORMER) == "blocks.3.ffn.gate_proj.weight"
    assert rename("head.weight", TRANSFORMER) == "head.weight"
    assert rename("blocks.0.norm.bias", RESIDUAL_HEAD) == "diffloss.net.res_blocks.0.in_ln.bias"
    rules = tokenizer_rules(3, r"quant_resi.qresi_ls.\1", "vae.")
    pairs = {
        "quant_conv.bias": "vae.quant_conv.bias",
        "encoder.levels.4.1.proj.bias": "vae.encoder.down.2.attn.0.proj_out.bias",
        "encoder.levels.1.conv.bias": "vae.encoder.down.0.downsample.conv.bias",
        "decoder.levels.0.2.skip.bias": "vae.decoder.up.2.block.1.nin_shortcut.bias",
        "decoder.levels.2.1.norm1.bias": "vae.decoder.up.1.block.1.norm1.bias",
        "quantizer.phis.2.bias": "vae.quantize.quant_resi.qresi_ls.2.bias",
    }
    assert {name: rename(name, rules) for name in pairs} == pairs


def test_raw_and_averaged_weights_differ(hart, tmp_path):
    convert_hart(hart, tmp_path / "raw", weights="raw")
    convert_hart(hart, tmp_path / "ema")
    heads = [load_file(tmp_path / name / "transformer" / WEIGHTS)["head.weight"] for name in ("raw", "ema")]
    assert not torch.equal(*heads)
    raw = load_file(hart / "llm" / "model.safetensors")["head.weight"]
    assert torch.equal(heads[0], raw)
    assert is_tidy(tmp_path, "hart", "raw", "ema")


def test_settings_of_the_pipeline(hart, tmp_path):
    convert_hart(hart, tmp_path / "model", text_encoder="some/encoder")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "HartPipeline"
    assert index["text_encoder_name"] == "some/encoder"
    assert index["max_tokens"] == 12
    assert index["sampling"]["gumbel_smoothing"] is True
    assert index["text_encoder"] == [None, None]


def test_sharded_and_pickled_weights_are_read(hart, tmp_path):
    whole = load_file(hart / "llm" / "model.safetensors")
    convert_hart(hart, tmp_path / "whole", weights="raw")
    (hart / "llm" / "model.safetensors").unlink()
    names = sorted(whole)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: whole[name] for name in inside}, hart / "llm" / shard)
    places = {name: shard for shard, inside in shards.items() for name in inside}
    index = hart / "llm" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    convert_hart(hart, tmp_path / "sharded", weights="raw")
    index.unlink()
    torch.save(whole, hart / "llm" / "pytorch_model.bin")
    convert_hart(hart, tmp_path / "pickled", weights="raw")
    wanted = load_file(tmp_path / "whole" / "transformer" / WEIGHTS)
    for name in ("sharded", "pickled"):
        found = load_file(tmp_path / name / "transformer" / WEIGHTS)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_missing_shard(hart, tmp_path):
    (hart / "llm" / "model.safetensors").unlink()
    index = hart / "llm" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"head.weight": "one.safetensors"}}))
    with pytest.raises(UserError, match=r"one\.safetensors is missing"):
        convert_hart(hart, tmp_path / "model", weights="raw")


def test_discriminator_is_left_out(hart, tmp_path):
    convert_hart(hart, tmp_path / "model")
    with safe_open(tmp_path / "model" / "image_tokenizer" / WEIGHTS, "pt") as file:
        assert not [name for name in file.keys() if "disc" in name]  # noqa: SIM118


@pytest.mark.parametrize(
    ("place", "where"),
    [("llm/ema_model.bin", "llm"), ("tokenizer/model.safetensors", "tokenizer")],
)
def test_unknown_tensors(hart, tmp_path, place, where):
    def change(values):
        values.update({f"extra.{index}": torch.zeros(1) for index in range(5)})

    edit(hart / place, change)
    message = rf"{where} .*extra\.0, extra\.1, extra\.2 and 2 more"
    with pytest.raises(UserError, match=message):
        convert_hart(hart, tmp_path / "model")
    assert is_tidy(tmp_path, "hart")


def test_missing_tensors(hart, tmp_path):
    edit(hart / "llm" / "ema_model.bin", lambda values: values.pop("blocks.1.attn.q_bias"))
    with pytest.raises(UserError, match=r"lacks blocks\.1\.attn\.q_bias"):
        convert_hart(hart, tmp_path / "model")


def test_configuration_of_another_model(hart, tmp_path):
    edit(hart / "llm" / "config.json", lambda values: values.update(diff_width=48))
    with pytest.raises(UserError, match="does not fit its configuration"):
        convert_hart(hart, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_type": "other"}, "mlp_type must be 'llama' or 'gpt2'"),
        ({"use_cross_attn": True}, "cross-attention"),
        ({"num_sampling_steps": "ddim8"}, "num_sampling_steps must be a whole number"),
        ({"depth": "two"}, "depth must be a whole number"),
    ],
)
def test_impossible_configuration(hart, tmp_path, change, message):
    edit(hart / "llm" / "config.json", lambda values: values.update(change))
    with pytest.raises(UserError, match=message):
        convert_hart(hart, tmp_path / "model")


@pytest.mark.parametrize(
    "name",
    [
        "llm/config.json",
        "llm/ema_model.bin",
        "tokenizer/config.json",
        "tokenizer/model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut short", "garbage"])
def test_missing_and_damaged_files(hart, tmp_path, name, damage):
    path = hart / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UserError) as error:
        convert_hart(hart, tmp_path / "model")
    assert str(hart) in str(error.value)
    assert is_tidy(tmp_path, "hart")


def test_destination_in_use(hart, var, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        convert_hart(hart, used)
    with pytest.raises(UserError, match="exists already"):
        convert_small_var(var, used)
    assert is_tidy(used, "notes.txt")


def test_empty_destination(hart, tmp_path):
    (tmp_path / "empty").mkdir()
    convert_hart(hart, tmp_path / "empty")
    assert (tmp_path / "empty" / "model_index.json").is_file()


def test_unknown_kind_of_weights(hart, tmp_path):
    with pytest.raises(UserError, match="ema or raw"):
        convert_hart(hart, tmp_path / "model", weights="best")


def test_learned_positions_hold_the_start(hart, tmp_path):
    def as_plain(values):
        for name in [name for name in values if "qkv_proj" in name]:
            values[name.replace("qkv_proj", "mat_qkv")] = values.pop(name)
        for name in [name for name in values if "ln_wo_grad" in name]:
            values.pop(name)
        values["decoder_norm.bias"] = torch.zeros_like(values["decoder_norm.weight"])
        values["pos_start"] = torch.full((1, 12, 64), 2.0)
        values["pos_1LC"] = torch.ones(1, 12 + 129, 64)
        values.pop("context_norm.weight")

    edit(hart / "llm" / "ema_model.bin", as_plain)
    change = {"attn_type": "gpt2", "use_context_norm": False}
    edit(hart / "llm" / "config.json", lambda values: values.update(change))
    convert_hart(hart, tmp_path / "model")
    found = load_file(tmp_path / "model" / "transformer" / WEIGHTS)["position_embed"]
    assert torch.equal(found, torch.cat([torch.full((12, 64), 3.0), torch.ones(129, 64)]))


def test_var_shape_is_read_off_the_tensors(var, tmp_path):
    convert_small_var(var, tmp_path / "model")
    pipeline = HartPipeline.from_pretrained(tmp_path / "model")
    shape = json.loads((var / "shape.json").read_text())
    config = pipeline.transformer.config
    assert list(config.scales) == shape["patch_nums"]
    assert (config.depth, config.width, config.num_heads) == (2, 64, 4)
    assert pipeline.label_encoder.config.num_classes == shape["num_classes"]
    assert pipeline.image_tokenizer.config.channel_multipliers == shape["vae"]["ch_mult"]
    assert {parameter.dtype for parameter in pipeline.transformer.parameters()} == {torch.float32}


def test_var_scales_that_were_not_published(var, tmp_path):
    def drop_one_place(values):
        values["pos_1LC"] = values["pos_1LC"][:, :-1]

    with pytest.raises(UserError, match="6 scales with 130 tokens"):
        convert_small_var(var, tmp_path / "model", scales=[1, 2, 3, 4, 6, 9])
    convert_small_var(var, tmp_path / "model", scales=[1, 2, 3, 4, 6, 8])
    edit(var / "var.pth", drop_one_place)
    with pytest.raises(UserError, match="give its scales"):
        convert_small_var(var, tmp_path / "other")


def test_var_files_that_are_not_right(var, tmp_path):
    with pytest.raises(UserError, match="is missing"):
        convert_var(var / "vae.pth", var / "none.pth", tmp_path / "model")
    with pytest.raises(UserError, match="lacks"):
        convert_var(var / "var.pth", var / "vae.pth", tmp_path / "model")
    torch.save({"trainer": {"nested": torch.zeros(1)}}, var / "var.pth")
    with pytest.raises(UserError, match="plain state dict"):
        convert_small_var(var, tmp_path / "model")


def test_var_in_the_old_file_format(var, tmp_path):
    values = torch.load(var / "var.pth", weights_only=True)
    torch.save(values, var / "var.pth", _use_new_zipfile_serialization=False)
    convert_small_var(var, tmp_path / "model")
    assert (tmp_path / "model" / "transformer" / WEIGHTS).is_file()
