"""MAR as a diffusers pipeline. What it shares with HartPipeline is tested in test_pipeline.py."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import openhart
from openhart.cli.main import main
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.pipelines.mar import MarPipeline
from tests.tiny import tiny_head, tiny_kl, tiny_masked_transformer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(pipeline, *prompt, seed=0, **call):
    return pipeline(*prompt, generator=seeded(seed), output_type="pt", **call).images


@pytest.fixture(scope="module")
def saved(mar_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mar") / "model"
    mar_pipeline.save_pretrained(folder)
    return folder


def test_output_types(mar_pipeline):
    def call(kind):
        return mar_pipeline(class_labels=1, generator=seeded(), output_type=kind).images

    tensor, array = call("pt"), call("np")
    assert tensor.shape == (1, 3, 16, 24)
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert call("pil")[0].size == (24, 16)
    assert call("latent").shape == (1, 4, 4, 6)
    assert mar_pipeline(class_labels=[0, 1], return_dict=False)[0][1].size == (24, 16)


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(mar_pipeline):
    alone = picture(mar_pipeline, class_labels=3, seed=7)
    batch = mar_pipeline(
        class_labels=[1, 3, 5], generator=[seeded(1), seeded(7), seeded(2)], output_type="pt"
    ).images
    torch.testing.assert_close(batch[1:2], alone, atol=1e-4, rtol=0)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


def test_several_images_per_class(mar_pipeline):
    found = mar_pipeline(
        class_labels=[2, 4],
        num_images_per_prompt=2,
        generator=[seeded(seed) for seed in range(4)],
        output_type="pt",
    ).images
    torch.testing.assert_close(found[1:2], picture(mar_pipeline, class_labels=2, seed=1), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[2:3], picture(mar_pipeline, class_labels=4, seed=2), atol=1e-4, rtol=0)


def test_it_is_saved_and_loaded(mar_pipeline, saved):
    expected = picture(mar_pipeline, class_labels=1)
    again = MarPipeline.from_pretrained(saved)
    assert again.sampling_settings().num_inference_steps == 5
    torch.testing.assert_close(picture(again, class_labels=1), expected, atol=1e-5, rtol=0)
    assert openhart.MarPipeline is MarPipeline
    half = MarPipeline.from_pretrained(saved, dtype="bfloat16")
    assert half.transformer.dtype == half.image_tokenizer.dtype == torch.bfloat16
    assert picture(half, class_labels=1).isfinite().all()
    generic = DiffusionPipeline.from_pretrained(saved)
    generic.set_progress_bar_config(disable=True)
    torch.testing.assert_close(picture(generic, class_labels=1), expected, atol=1e-5, rtol=0)
    loader = (saved / "pipeline.py").read_text()
    assert "import MarPipeline" in loader


def test_the_parts_make_a_second_pipeline(mar_pipeline):
    again = MarPipeline(**mar_pipeline.components, sampling=mar_pipeline.config.sampling)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(picture(again, class_labels=1), picture(mar_pipeline, class_labels=1))


def test_the_stream_ends_in_the_image_of_the_call(mar_pipeline):
    states = list(mar_pipeline.stream(class_labels=1, generator=seeded()))
    assert [state.index for state in states] == list(range(5))
    unknown = [int(state.unknown.sum()) for state in states]
    assert unknown == sorted(unknown, reverse=True)
    assert unknown[-1] == 0
    final = picture(mar_pipeline, class_labels=1)
    assert mar_pipeline.decode_preview(states[-1])[0].tobytes() == (
        mar_pipeline.numpy_to_pil(final.permute(0, 2, 3, 1).numpy())[0].tobytes()
    )


def test_threads_share_a_pipeline(mar_pipeline):
    seeds = range(4)
    alone = [picture(mar_pipeline, class_labels=seed, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: picture(mar_pipeline, class_labels=seed, seed=seed), seeds))
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_callback_of_diffusers_sees_and_replaces_latents(mar_pipeline):
    seen = []

    def callback(pipe, step, timestep, tensors):
        assert pipe is mar_pipeline
        seen.append((step, timestep))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 4 else {}

    found = mar_pipeline(
        class_labels=1, generator=seeded(), output_type="latent", callback_on_step_end=callback
    ).images
    assert seen == [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]
    assert not found.any()


def test_prompts(text_mar_pipeline, tmp_path):
    texts = text_mar_pipeline
    apple = picture(texts, "a red apple", guidance_scale=2.0)
    pair = texts(["a cat", "a red apple"], guidance_scale=2.0, generator=[seeded(1), seeded()],
                 output_type="pt").images  # fmt: skip
    torch.testing.assert_close(pair[1:], apple, atol=1e-4, rtol=0)
    assert not torch.allclose(apple, picture(texts, "a cat", guidance_scale=2.0), atol=1e-3)
    away = picture(texts, "a red apple", guidance_scale=2.0, negative_prompt="a cat")
    assert not torch.allclose(apple, away, atol=1e-3)
    texts.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "text_encoder").exists()
    again = MarPipeline.from_pretrained(tmp_path / "model")
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(picture(again, "a red apple", guidance_scale=2.0), apple, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": "a cat", "class_labels": None}, "class-conditional: pass class_labels instead of prompt"),
        ({"class_labels": 6}, r"class_labels must be 0 … 4, or 5 for no class"),
        ({"height": 32}, r"images of 16×24 pixels only, got height 32"),
        ({"output_type": "jpeg"}, "output_type must be one of"),
        ({"guidance_scale": -1}, "guidance_scale must be between 0 and 1000"),
        ({"top_k": 5}, "no argument top_k; sampling has guidance_scale"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"sampling": {"temperature": 1}}, "sampling must be MaskedSamplingSettings"),
    ],
)
def test_arguments_that_cannot_be(mar_pipeline, call, message):
    with pytest.raises(UserError, match=message):
        mar_pipeline(**{"class_labels": 1, **call})


def test_parts_that_do_not_fit():
    parts = {
        "image_tokenizer": tiny_kl(),
        "transformer": tiny_masked_transformer(),
        "diffusion_head": tiny_head(code_dim=4),
    }
    for name, wrong, message in (
        ("image_tokenizer", tiny_kl(latent_channels=8), "latent_channels must be 8, got 4"),
        ("diffusion_head", tiny_head(code_dim=8), "code_dim must be 4, got 8"),
        ("diffusion_head", tiny_head(code_dim=4, condition_dim=16), "condition_dim must be 32, got 16"),
    ):
        with pytest.raises(UserError, match=message):
            MarPipeline(**parts | {name: wrong})


def test_one_function_loads_every_family(saved, text_model):
    assert type(openhart.from_pretrained(saved)) is MarPipeline
    assert type(openhart.from_pretrained(text_model, text_encoder=None)) is HartPipeline
    with pytest.raises(UserError, match="takes no residual_head"):
        openhart.from_pretrained(saved, residual_head=None)


def test_info(saved, capsys):
    assert main(["info", str(saved)]) == 0
    printed = capsys.readouterr().out
    for words in (
        "KLAutoencoder",
        "MaskedTransformer",
        "16×24 pixels",
        "24 of 4 channels",
        "diffusion_steps",
    ):
        assert words in printed


def test_each_family_loads_its_own_models(saved, text_model):
    with pytest.raises(UserError, match="is a model of MarPipeline: load it with that class"):
        HartPipeline.from_pretrained(saved)
    with pytest.raises(UserError, match="is a model of HartPipeline"):
        MarPipeline.from_pretrained(text_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": ["openhart.transformer.model", "HartTransformer"]}, "may not be 'HartTransformer'"),
        ({"diffusion_head": [None, None]}, "diffusion_head must name a module and a class"),
        (
            {"residual_head": ["openhart.residual.heads", "TokenResidualHead"]},
            "unknown setting residual_head",
        ),
        ({"sampling": {"top_k": 3}}, "no setting top_k"),
    ],
)
def test_an_index_of_another_kind_is_refused(mar_pipeline, tmp_path, change, message):
    mar_pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    path = tmp_path / "model" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        MarPipeline.from_pretrained(tmp_path / "model")


def test_generate(saved, tmp_path, capsys):
    given = ["generate", "--model", str(saved), "--label", "3", "-o", str(tmp_path), "--seed", "0", "--quiet"]
    assert main([*given, "--steps", "2", "--diffusion-steps", "3", "--guidance-schedule", "constant"]) == 0
    settings = {"num_inference_steps": 2, "diffusion_steps": 3, "guidance_schedule": "constant"}
    called = MarPipeline.from_pretrained(saved)(class_labels=3, generator=seeded(0), **settings).images[0]
    with Image.open(tmp_path / "class-3.png") as image:
        assert image.size == (24, 16)
        assert np.array_equal(image, called)
    assert main([*given, "--optimize", "exact", "--steps", "2", "-o", str(tmp_path / "exact.png")]) == 0
    for wrong, code, message in (
        (["--top-k", "5"], 2, "the model has no setting --top-k"),
        (["--diffusion-steps", "1"], 2, "must be a whole number from 2 to 1000"),
        (["--optimize", "fastest"], 1, "the level must be exact or fast"),
        (["--lora", "adapter"], 1, "no LoRA in adapter"),
        (["--height", "32"], 1, "images of 16×24 pixels only"),
    ):
        try:
            found = main([*given, *wrong])
        except SystemExit as stop:
            found = stop.code
        assert found == code
        assert message in capsys.readouterr().err
