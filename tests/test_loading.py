"""Every argument of loading and saving is honoured or refused, and broken models are refused as a whole."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer
from tests.tiny import tiny_transformer


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_may_be_named(text_model, name, dtype):
    assert HartPipeline.from_pretrained(text_model, **{name: dtype}).transformer.dtype == torch.bfloat16
    part = HybridTokenizer.from_pretrained(text_model / "image_tokenizer", **{name: dtype})
    assert part.dtype == torch.bfloat16


REFUSED = [
    ({"revison": "main"}, "takes no revison"),
    ({"custom_pipeline": "x"}, "custom_pipeline cannot be used"),
    ({"trust_remote_code": True}, "trust_remote_code cannot be used"),
    ({"revision": "main"}, "revision needs a hub id"),
    ({"dtype": "int8"}, "dtype must be"),
    ({"dtype": 3}, "dtype must be"),
    ({"variant": "fp16"}, "fp16"),
    ({"use_safetensors": False}, "must be True"),
    ({"transformer": None}, "transformer must be a model"),
    ({"sampling": {"warmth": 1}}, "no setting warmth"),
    ({"max_tokens": "8"}, "max_tokens must be a whole number"),
]


@pytest.mark.parametrize(("arguments", "word"), REFUSED, ids=str)
def test_what_nothing_would_come_of_is_refused(text_model, arguments, word):
    with pytest.raises(UserError, match=word):
        HartPipeline.from_pretrained(text_model, **arguments)


def test_a_part_refuses_too(text_model):
    for arguments in ({"scale": [1]}, {"subfolder": "nowhere"}, {"use_safetensors": False}):
        with pytest.raises(UserError):
            HybridTokenizer.from_pretrained(text_model / "image_tokenizer", **arguments)
    with pytest.raises(UserError, match="no setting colour"):
        HartTransformer(colour=1)
    with pytest.raises(UserError, match="depth must be a whole number, got 'deep'"):
        HartTransformer(depth="deep")


def test_hub_arguments_reach_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def snapshot(name, **given):
        asked.update(given, name=name)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here\nnor there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    given = {"revision": "v1", "token": "t", "cache_dir": str(tmp_path), "local_files_only": True}
    with pytest.raises(UserError, match=r"no model owner/name: .*hub cannot be reached") as caught:
        HartPipeline.from_pretrained("owner/name", **given)
    assert given.items() <= asked.items()
    assert "\n" not in str(caught.value)


def test_a_variant_is_loaded(text_pipeline, tmp_path):
    text_pipeline.save_pretrained(tmp_path / "model", variant="fp16")
    loaded = HartPipeline.from_pretrained(tmp_path / "model", variant="fp16")
    assert torch.equal(loaded.transformer.head.weight, text_pipeline.transformer.head.weight)
    with pytest.raises(UserError):
        HartPipeline.from_pretrained(tmp_path / "model")


@pytest.fixture
def copied(text_model, tmp_path):
    return shutil.copytree(text_model, tmp_path / "model")


@pytest.mark.parametrize(
    ("part", "name"), [("transformer", "head.weight"), ("image_tokenizer", "post_quant_conv.bias")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(copied, part, name, value):
    file = copied / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[3] = value
    save_file(tensors, file)
    with pytest.raises(UserError, match=f"{name} has values that are NaN or infinite"):
        HartPipeline.from_pretrained(copied)


def test_scores_that_overflow_are_reported(text_pipeline):
    context = torch.full((1, 8, 384), float("nan"))
    with pytest.raises(UserError, match="not finite"):
        text_pipeline(prompt_embeds=context)


BAD_INDEX = [
    ({"max_tokens": "x"}, "max_tokens must be a whole number"),
    ({"sampling": {"top_k": "x"}}, "top_k must be a whole number"),
    ({"colour": 1}, "unknown setting colour"),
    ({"transformer": [None, None]}, "transformer must name a module and a class"),
    ({"text_encoder_name": ""}, "must name a file or a folder"),
]


@pytest.mark.parametrize(("values", "word"), BAD_INDEX, ids=str)
def test_an_index_with_values_that_cannot_be(copied, values, word):
    path = copied / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=word) as caught:
        HartPipeline.from_pretrained(copied)
    assert str(path) in str(caught.value)


def test_saving_is_whole_or_not_at_all(text_pipeline, tmp_path):
    folder = tmp_path / "model"
    for arguments in ({"safe_serialization": False}, {"colour": 1}):
        with pytest.raises(UserError):
            text_pipeline.save_pretrained(folder, **arguments)
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    text_pipeline.save_pretrained(folder)
    text_pipeline.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert HartPipeline.from_pretrained(folder).config.max_tokens == 8
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_saved_model_can_be_read_by_whom_the_umask_allows(text_pipeline, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        text_pipeline.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


def test_quantized_weights_are_not_half_saved(text_model, tmp_path):
    pytest.importorskip("torchao")
    quantized = HartPipeline.from_pretrained(text_model, dtype="bfloat16").quantize("int8")
    with pytest.raises(UserError, match="save the model before"):
        quantized.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_sizes_that_do_not_fit_the_memory(text_pipeline):
    with pytest.raises(UserError, match=r"need about .* GiB and .* are free: at most \d+×\d+ would fit"):
        text_pipeline("a", height=60_000, width=60_000)
    with pytest.raises(UserError, match=r"generate at most \d+ at a time"):
        text_pipeline("a", num_images_per_prompt=10**9)
    for height in ("32", 32.0, True, 0):
        with pytest.raises(UserError, match="whole numbers of pixels"):
            text_pipeline("a", height=height)


def test_a_transformer_keeps_to_what_its_annotations_say():
    assert tiny_transformer(mlp_ratio=2).config.mlp_ratio == 2
    for settings in ({"depth": True}, {"mlp_ratio": float("nan")}, {"norm": "batch"}, {"scales": [1, True]}):
        with pytest.raises(UserError, match=next(iter(settings))):
            tiny_transformer(**settings)
