import json

import pytest
import torch
from PIL import Image

import openhart
from openhart import HartPipeline, LabelEncoder, UserError, VqganPipeline
from openhart.cli.main import main
from openhart.generation.raster_settings import RasterSampling
from tests.tiny import shaken, tiny_raster, tiny_vqgan_tokenizer


def labels(count=5, **settings):
    return shaken(LabelEncoder(num_classes=count, dim=32, **settings))


@pytest.fixture(scope="module")
def by_class():
    return VqganPipeline(tiny_vqgan_tokenizer(), tiny_raster(), label_encoder=labels())


@pytest.fixture(scope="module")
def by_codes():
    tokenizer = tiny_vqgan_tokenizer(in_channels=7)
    return VqganPipeline(
        tiny_vqgan_tokenizer(), tiny_raster(context_tokens=16), condition_tokenizer=tokenizer
    )


def seeds(*values):
    return [torch.Generator().manual_seed(value) for value in values]


def images(pipeline, **arguments):
    return pipeline(output_type="pt", **arguments).images


def test_saved_and_loaded_makes_the_same_image(by_class, tmp_path):
    by_class.save_pretrained(tmp_path)
    loaded = VqganPipeline.from_pretrained(tmp_path)
    made = [images(each, class_labels=[1, 2], generator=seeds(3, 4)) for each in (by_class, loaded)]
    assert torch.equal(*made)
    assert made[0].shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match="VqganPipeline"):
        HartPipeline.from_pretrained(tmp_path)


def test_one_function_loads_it_and_info_prints_its_sizes(by_class, tmp_path, capsys):
    by_class.save_pretrained(tmp_path)
    assert type(openhart.from_pretrained(tmp_path)) is VqganPipeline
    assert main(["info", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for words in ("VqganTokenizer", "RasterTransformer", "8×8 pixels", "32 of 4 channels"):
        assert words in printed


def test_the_command_makes_an_image(by_class, tmp_path):
    by_class.save_pretrained(tmp_path / "model")
    given = ["generate", "--model", str(tmp_path / "model"), "--label", "3", "--seed", "0", "--quiet"]
    assert main([*given, "--top-k", "5", "-o", str(tmp_path)]) == 0
    assert main([*given, "--top-k", "5", "-o", str(tmp_path / "again.png"), "--previews"]) == 0
    with Image.open(tmp_path / "class-3.png") as image, Image.open(tmp_path / "again.png") as again:
        assert image.size == (8, 8)
        assert image.tobytes() == again.tobytes()
    with Image.open(tmp_path / "again-previews.png") as strip:
        assert strip.size == (4 * 8, 8)
        assert strip.crop((3 * 8, 0, 4 * 8, 8)).tobytes() == image.tobytes()


def test_a_dtype_applies_to_all_parts(by_class, tmp_path):
    by_class.save_pretrained(tmp_path)
    loaded = VqganPipeline.from_pretrained(tmp_path, dtype="bfloat16")
    assert {part.dtype for part in (loaded.transformer, loaded.image_tokenizer)} == {torch.bfloat16}
    assert images(loaded, class_labels=1).isfinite().all()


def test_an_image_is_the_same_alone_and_in_a_batch(by_class):
    together = images(by_class, class_labels=[1, 2], num_images_per_prompt=2, generator=seeds(1, 2, 3, 4))
    alone = [
        images(by_class, class_labels=c, generator=seeds(s)) for c, s in ((1, 1), (1, 2), (2, 3), (2, 4))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_a_stream_gives_each_row_and_previews(by_class):
    states = list(by_class.stream(class_labels=[1], generator=seeds(0)))
    assert [state.index for state in states] == [0, 1, 2, 3]
    latent = by_class(class_labels=[1], generator=seeds(0), output_type="latent").images
    assert torch.equal(states[-1].features, latent)
    assert by_class.decode_preview(states[0])[0].size == (8, 8)


def test_sampling_of_the_model_the_call_and_both(by_class):
    pipeline = VqganPipeline(**by_class.components, sampling={"top_k": 1})
    assert pipeline.sampling_settings().top_k == 1
    assert pipeline.sampling_settings(temperature=2.0) == RasterSampling(top_k=1, temperature=2.0)
    assert pipeline.sampling_settings(RasterSampling(top_k=7), top_p=0.5) == RasterSampling(
        top_k=7, top_p=0.5
    )
    greedy = [images(pipeline, class_labels=1) for _ in range(2)]
    assert torch.equal(*greedy)


def test_guidance_needs_a_model_with_an_empty_condition(by_class):
    guided = images(by_class, class_labels=1, guidance_scale=4.0, top_k=1)
    assert not torch.equal(guided, images(by_class, class_labels=1, top_k=1))
    released = VqganPipeline(
        by_class.image_tokenizer, by_class.transformer, label_encoder=labels(empty_class=False)
    )
    with pytest.raises(UserError, match="no empty condition"):
        released(class_labels=1, guidance_scale=4.0)
    with pytest.raises(UserError, match=r"class_labels must be 0 … 4, got 5"):
        released(class_labels=5)


def test_a_model_of_one_class_needs_no_label(by_class):
    unconditional = VqganPipeline(
        by_class.image_tokenizer, by_class.transformer, label_encoder=labels(1, empty_class=False)
    )
    assert images(unconditional, num_images_per_prompt=3).shape == (3, 3, 8, 8)
    with pytest.raises(UserError, match="pass exactly one"):
        by_class()


def test_a_condition_is_an_image_or_its_codes_and_may_be_larger(by_codes):
    condition = torch.rand(1, 7, 12, 10)
    made = images(by_codes, condition_image=condition, height=12, width=10, generator=seeds(0))
    assert made.shape == (1, 3, 12, 10)
    tokenizer = by_codes.condition_tokenizer
    with torch.no_grad():
        codes = tokenizer.quantize(tokenizer.encode(condition)).codes[0].unflatten(1, (6, 5))
    again = images(by_codes, condition_codes=codes, height=12, width=10, generator=seeds(0))
    assert torch.equal(made, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass condition_image or condition_codes"),
        ({"class_labels": 1}, "pass condition_image or condition_codes"),
        ({"condition_image": torch.zeros(1, 3, 8, 8)}, r"\(batch, 7, height, width\)"),
        ({"condition_codes": torch.full((1, 4, 4), 32)}, "must be 0 … 31"),
        ({"condition_codes": torch.zeros(1, 9, dtype=torch.long)}, "must be 16 codes per image, got 9"),
        ({"condition_codes": torch.zeros(1, 4, 4, dtype=torch.long), "height": 10}, "a map of 4×4 codes"),
    ],
)
def test_conditions_that_do_not_suit_a_code_conditional_model(by_codes, arguments, message):
    with pytest.raises(UserError, match=message):
        by_codes(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": 1, "condition_codes": torch.zeros(1, 4, 4)}, "not conditioned on codes"),
        ({"class_labels": 1, "height": 12}, "need a condition with a token per place"),
        ({"class_labels": 1, "height": 7}, "multiples of 2"),
        ({"prompt": "a cat"}, "class-conditional: pass class_labels"),
        ({"class_labels": 1, "top_q": 3}, "no argument top_q"),
        ({"class_labels": 1, "temperature": 0}, "temperature must be"),
        ({"class_labels": 1, "output_type": "jpg"}, "output_type must be"),
    ],
)
def test_arguments_that_do_not_suit_a_class_conditional_model(by_class, arguments, message):
    with pytest.raises(UserError, match=message):
        by_class(**arguments)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="codebook_size must be 32, got 16"):
        VqganPipeline(tiny_vqgan_tokenizer(), tiny_raster(codebook_size=16), label_encoder=labels())
    with pytest.raises(UserError, match="scales must be"):
        VqganPipeline(tiny_vqgan_tokenizer(), tiny_raster(scales=[5]), label_encoder=labels())


def test_the_last_preview_is_the_image_of_the_call(by_class, mar_pipeline, label_pipeline):
    for pipeline in (by_class, mar_pipeline, label_pipeline):
        states = list(pipeline.stream(class_labels=1, generator=seeds(0)))
        assert [state.index for state in states] == list(range(states[0].count))
        previews = [pipeline.decode_preview(state)[0].tobytes() for state in states]
        called = pipeline(class_labels=1, generator=seeds(0)).images[0]
        assert previews[-1] == called.tobytes()
        assert len(set(previews)) == len(previews)


def test_the_command_makes_images_of_an_unconditional_model(by_class, tmp_path, capsys):
    one = labels(1, empty_class=False)
    unconditional = VqganPipeline(by_class.image_tokenizer, by_class.transformer, label_encoder=one)
    unconditional.save_pretrained(tmp_path / "model")
    given = ["generate", "--model", str(tmp_path / "model"), "-o", str(tmp_path), "--quiet", "--seed", "3"]
    assert main([*given, "--images-per-prompt", "2"]) == 0
    with Image.open(tmp_path / "image-2.png") as image:
        assert image.tobytes() == unconditional(generator=seeds(4)).images[0].tobytes()
    assert main([*given, "a cat"]) == 1
    assert "this model is unconditional: omit a prompt" in capsys.readouterr().err


def test_the_command_makes_images_of_codes_and_maps_of_classes(by_codes, tmp_path, capsys):
    by_codes.save_pretrained(tmp_path / "model")
    pixels = torch.randint(0, 7, (12, 10), generator=seeds(0)[0])
    Image.fromarray(pixels.byte().numpy()).save(tmp_path / "classes.png")
    condition = torch.nn.functional.one_hot(pixels, 7).permute(2, 0, 1).float()
    tokenizer = by_codes.condition_tokenizer
    with torch.no_grad():
        codes = tokenizer.quantize(tokenizer.encode(condition[None])).codes[0].unflatten(1, (6, 5))
    (tmp_path / "codes.json").write_text(json.dumps(codes[0].tolist()))
    given = ["generate", "--model", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--seed", "3"]
    files = [str(tmp_path / name) for name in ("classes.png", "codes.json")]
    assert main([*given, "--condition", files[0], "--condition", files[1], "--previews", "--quiet"]) == 0
    called = by_codes(condition_image=condition[None], height=12, width=10, generator=seeds(3)).images[0]
    for name in ("classes", "codes"):
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.tobytes() == called.tobytes()
    pixels[0, 0] = 7
    Image.fromarray(pixels.byte().numpy()).save(tmp_path / "classes.png")
    Image.new("RGB", (10, 12)).save(tmp_path / "colours.png")
    (tmp_path / "wrong.json").write_text("[[1, 2], [3]]")
    for arguments, code, message in (
        (["--condition", files[0]], 1, "must be numbers of classes, 0 … 6, got 7"),
        (["--condition", str(tmp_path / "colours.png")], 1, "must have one channel per pixel"),
        (["--condition", str(tmp_path / "wrong.json")], 1, "such rows of equal length"),
        (["--condition", str(tmp_path / "absent.png")], 1, "there is no file"),
        (["--label", "1"], 1, "another image or its codes: give --condition FILE instead of --label"),
        ([], 2, "another image or its codes: give --condition FILE"),
        (["a cat", "--condition", files[0]], 2, "give a prompt or --condition, not both"),
    ):
        assert main([*given, *arguments]) == code
        assert message in capsys.readouterr().err
