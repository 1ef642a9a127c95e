import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from openhart.errors import UserError
from openhart.generation.settings import SamplingSettings
from openhart.generation.states import KnownCodes
from openhart.pipelines.hart import HartPipeline
from openhart.randomness import expand_generators
from tests.conftest import TOKENS
from tests.tiny import tiny_head, tiny_tokenizer, tiny_transformer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(pipeline, *prompt, seed=0, **call):
    return pipeline(*prompt, generator=seeded(seed), output_type="pt", **call).images


def assert_same_picture(found, expected):
    """Equal but for rounding: where weights lie in memory changes the order of a sum."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_output_types(text_pipeline):
    def call(kind):
        return text_pipeline("a red apple", generator=seeded(), output_type=kind).images

    height, width = text_pipeline.image_tokenizer.image_size
    assert call("pil")[0].size == (width, height)
    tensor, array = call("pt"), call("np")
    assert tensor.shape == (1, 3, height, width)
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert call("latent").shape == (1, 8, 4, 4)
    assert text_pipeline("a cat", return_dict=False)[0][0].size == (width, height)


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(text_pipeline):
    alone = picture(text_pipeline, "a red apple", seed=7)
    batch = text_pipeline(
        ["a cat", "a red apple", ""],
        generator=[seeded(1), seeded(7), seeded(2)],
        output_type="pt",
    ).images
    torch.testing.assert_close(batch[1:2], alone, atol=1e-4, rtol=0)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


def test_one_generator_serves_samples_in_order(text_pipeline):
    generator = seeded(3)
    first = text_pipeline("a cat", generator=generator, output_type="pt").images
    second = text_pipeline("a cat", generator=generator, output_type="pt").images
    both = picture(text_pipeline, "a cat", seed=3, num_images_per_prompt=2)
    torch.testing.assert_close(both, torch.cat([first, second]), atol=1e-4, rtol=0)
    assert not torch.allclose(first, second, atol=1e-2)


def test_without_a_generator_calls_differ():
    device = torch.device("cpu")
    seeds = [each.initial_seed() for _ in range(2) for each in expand_generators(None, 2, device)]
    assert len(set(seeds)) == 4


def test_images_of_a_prompt_lie_together(text_pipeline):
    generators = [seeded(seed) for seed in range(4)]
    images = text_pipeline(
        ["a cat", "a dog"], num_images_per_prompt=2, generator=generators, output_type="pt"
    ).images
    torch.testing.assert_close(images[2:3], picture(text_pipeline, "a dog", seed=2), atol=1e-4, rtol=0)


def test_an_empty_prompt_is_the_empty_condition(text_pipeline):
    context, mask = text_pipeline.encode_condition("")
    assert not context.any()
    assert mask[0].tolist() == [True] + [False] * (TOKENS - 1)
    guided = picture(text_pipeline, "", guidance_scale=5.0)
    torch.testing.assert_close(guided, picture(text_pipeline, "", guidance_scale=1.0))


def test_embeds_stand_for_their_prompt(text_pipeline):
    context, mask = text_pipeline.encode_condition("a red apple")
    given = picture(text_pipeline, prompt_embeds=context, prompt_attention_mask=mask)
    torch.testing.assert_close(given, picture(text_pipeline, "a red apple"))


def test_classes(label_pipeline):
    images = picture(label_pipeline, class_labels=[0, 4])
    assert images.shape[0] == 2
    torch.testing.assert_close(images[:1], picture(label_pipeline, class_labels=0), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        picture(label_pipeline, class_labels=torch.tensor([5]), guidance_scale=1.0),
        picture(label_pipeline, class_labels=5),
    )


@pytest.mark.parametrize(
    "call",
    [
        {"use_residual": False},
        {"guidance_scale": 1.0},
        {"top_k": 1},
        {"gumbel_smoothing": True},
        {"temperature": 3.0},
        {"top_p": 0.3},
        {"residual_steps": 2},
        {"residual_strength": 0.3},
        {"residual_solver": "mean"},
        {"last_scale_steps": 4},
    ],
)
def test_sampling_arguments_are_heard(text_pipeline, call):
    usual, other = picture(text_pipeline, "a cat"), picture(text_pipeline, "a cat", **call)
    assert not torch.equal(usual, other)


def test_sampling_defaults_come_from_the_model(text_pipeline):
    assert text_pipeline.sampling_settings().guidance_scale == 3.0
    assert text_pipeline.sampling_settings(guidance_scale=2.0).guidance_scale == 2.0
    assert text_pipeline.sampling_settings(top_p=None).temperature == 1.0
    whole = SamplingSettings(top_k=7, late_top_k=3)
    assert text_pipeline.sampling_settings(whole) == whole
    assert text_pipeline.sampling_settings(whole, top_k=9) == SamplingSettings(top_k=9)


def test_save_and_load_give_the_same_picture(text_pipeline, text_model):
    assert not (text_model / "text_encoder").exists()
    loaded = HartPipeline.from_pretrained(text_model)
    loaded.set_progress_bar_config(disable=True)
    assert_same_picture(picture(loaded, "a cat"), picture(text_pipeline, "a cat"))
    assert loaded.config.sampling == text_pipeline.config.sampling
    assert text_pipeline.config.text_encoder[0] == "transformers"


def test_a_text_encoder_without_a_name_is_saved(text_pipeline, tmp_path):
    unnamed = HartPipeline(**text_pipeline.components, max_tokens=TOKENS)
    unnamed.set_progress_bar_config(disable=True)
    unnamed.save_pretrained(tmp_path)
    loaded = HartPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert_same_picture(picture(loaded, "a cat"), picture(unnamed, "a cat"))


def test_label_models_are_saved_and_loaded(label_pipeline, label_model):
    loaded = HartPipeline.from_pretrained(label_model)
    loaded.set_progress_bar_config(disable=True)
    assert_same_picture(picture(loaded, class_labels=1), picture(label_pipeline, class_labels=1))


def test_bfloat16(text_model, tmp_path):
    cast = HartPipeline.from_pretrained(text_model).to(dtype=torch.bfloat16)
    cast.set_progress_bar_config(disable=True)
    image = picture(cast, "a cat")
    assert image.isfinite().all()
    cast.save_pretrained(tmp_path)
    loaded = HartPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    assert_same_picture(picture(loaded, "a cat"), image)


def test_a_stream_shows_every_scale_and_ends_in_the_picture_of_the_call(text_pipeline):
    states = list(text_pipeline.stream("a red apple", generator=seeded(4), top_k=8))
    assert [state.scale_index for state in states] == list(range(len(text_pipeline.transformer.scales)))
    called = text_pipeline("a red apple", generator=seeded(4), top_k=8, output_type="latent").images
    assert torch.equal(states[-1].f_hat, called)
    previews = [text_pipeline.decode_preview(state)[0].tobytes() for state in states]
    assert len(set(previews)) == len(previews)


def test_a_stream_checks_its_arguments_before_the_first_scale(text_pipeline):
    with pytest.raises(UserError, match="temperature"):
        text_pipeline.stream("a cat", temperature=-1)


def test_a_closed_stream_does_no_more_work(text_pipeline):
    calls = []
    hook = text_pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        stream = text_pipeline.stream("a cat", generator=seeded())
        next(stream)
        stream.close()
        assert len(calls) == 1
        assert list(stream) == []
        assert len(calls) == 1
    finally:
        hook.remove()


def test_threads_that_share_a_pipeline_get_the_pictures_they_would_get_alone(text_pipeline):
    prompts = ["a red apple", "a cat", "a grinning face, flat style", ""]
    settings = [{"top_k": 4}, {"guidance_scale": 1.0}, {"gumbel_smoothing": True}, {"residual_steps": 3}]

    def features(place):
        call = settings[place]
        return [
            state.f_hat for state in text_pipeline.stream(prompts[place], generator=seeded(place), **call)
        ]

    alone = [features(place) for place in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(features, [0, 1, 2, 3] * 3))
    for place, found in enumerate(together):
        for state, expected in zip(found, alone[place % 4], strict=True):
            assert_same_picture(state, expected)


def test_given_codes_are_kept_and_the_others_are_drawn(text_pipeline):
    first = list(text_pipeline.stream("a red apple", generator=seeded(1)))
    masks = [torch.zeros_like(state.codes, dtype=torch.bool) for state in first]
    for mask in masks[:2]:
        mask.fill_(True)
    masks[-1][:, ::2] = True
    known = KnownCodes([state.codes for state in first], masks)
    second = list(text_pipeline.stream("a cat", generator=seeded(2), known_codes=known))
    for one, other, mask in zip(first, second, masks, strict=True):
        assert torch.equal(one.codes[mask], other.codes[mask])
    assert torch.equal(first[1].f_hat, second[1].f_hat)
    assert not torch.equal(first[-1].codes, second[-1].codes)
    whole = KnownCodes(known.codes, [torch.ones_like(mask) for mask in masks])
    for way in ({}, {"gumbel_smoothing": True}, {"last_scale_steps": 3}):
        found = list(text_pipeline.stream("a cat", known_codes=whole, use_residual=False, **way))
        plain = list(text_pipeline.stream("a dog", known_codes=whole, use_residual=False))
        torch.testing.assert_close(found[-1].f_hat, plain[-1].f_hat)


def test_a_callback_sees_every_scale_and_may_end_the_call(text_pipeline):
    seen = []

    def callback(pipe, scale, state):
        seen.append((scale, pipe.decode_preview(state)[0]))
        return len(seen) < 2

    images = text_pipeline("a cat", generator=seeded(), callback_on_scale_end=callback).images
    assert [scale for scale, _ in seen] == [0, 1]
    assert images[0].tobytes() == seen[-1][1].tobytes()
    text_pipeline("a cat", callback_on_scale_end=lambda *_: seen.append(_[1:]))
    assert len(seen) == 2 + len(text_pipeline.transformer.scales)


def test_a_step_callback_may_change_the_features(text_pipeline):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append((step, timestep))
        assert list(tensors) == ["latents"]
        if timestep == 0:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    call = {"generator": seeded(), "output_type": "latent", "callback_on_step_end": callback}
    images = text_pipeline("a cat", **call).images
    scales = text_pipeline.num_timesteps
    assert steps == [(step, scales - 1 - step) for step in range(scales)]
    assert not images.any()

    def early(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == scales - 2 else None

    changed = text_pipeline("a cat", **call | {"generator": seeded(), "callback_on_step_end": early}).images
    usual = text_pipeline("a cat", generator=seeded(), output_type="latent").images
    assert not torch.equal(changed, usual)


def test_a_negative_prompt_takes_the_place_of_the_empty_condition(text_pipeline):
    usual = picture(text_pipeline, "a cat", num_images_per_prompt=2)
    for empty in ("", " "):
        same = picture(text_pipeline, "a cat", num_images_per_prompt=2, negative_prompt=empty)
        assert torch.equal(same, usual)
    other = picture(text_pipeline, "a cat", num_images_per_prompt=2, negative_prompt="a dog")
    assert not torch.allclose(other, usual)
    context, mask = text_pipeline.encode_condition("a dog")
    given = picture(
        text_pipeline,
        "a cat",
        num_images_per_prompt=2,
        negative_prompt_embeds=context,
        negative_prompt_attention_mask=mask,
    )
    assert_same_picture(given, other)
    both = text_pipeline(
        ["a rose", "a cat"],
        negative_prompt=["", "a dog"],
        generator=[seeded(5), seeded(0)],
        output_type="pt",
    ).images
    alone = text_pipeline("a cat", negative_prompt="a dog", generator=[seeded(0)], output_type="pt").images
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)
    unguided = picture(text_pipeline, "a cat", guidance_scale=1.0, negative_prompt="a dog")
    assert torch.equal(unguided, picture(text_pipeline, "a cat", guidance_scale=1.0))


def test_a_shorter_sequence_keeps_the_first_tokens(text_pipeline):
    whole, mask = text_pipeline.encode_condition("a red apple")
    with pytest.warns(UserWarning, match="first 3 tokens"):
        short, short_mask = text_pipeline.encode_condition("a red apple", max_sequence_length=3)
    assert short.shape == whole.shape
    assert int(mask.sum()) == 5
    assert int(short_mask.sum()) == 3


def test_a_pipeline_is_made_of_its_components(text_pipeline, label_pipeline):
    again = HartPipeline(**text_pipeline.components)
    again.set_progress_bar_config(disable=True)
    sampling = text_pipeline.config.sampling
    assert_same_picture(picture(again, "a cat", **sampling), picture(text_pipeline, "a cat"))
    assert HartPipeline.from_pipe(text_pipeline).config.sampling == sampling
    assert HartPipeline(**label_pipeline.components).condition_encoder.kind == "label"


@pytest.mark.parametrize("how", [{}, {"custom_pipeline": "pipeline", "trust_remote_code": True}])
def test_the_generic_loader_of_diffusers_opens_a_model(text_pipeline, text_model, how, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    loaded = DiffusionPipeline.from_pretrained(str(text_model), **how)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded, HartPipeline)
    assert_same_picture(picture(loaded, "a cat"), picture(text_pipeline, "a cat"))
    loaded.save_pretrained(tmp_path / "saved")
    assert_same_picture(
        picture(HartPipeline.from_pretrained(tmp_path / "saved"), "a cat"), picture(text_pipeline, "a cat")
    )


def test_variants_and_shards(label_pipeline, tmp_path):
    label_pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="40KB")
    assert len(list((tmp_path / "transformer").glob("*.fp16-*-of-*.safetensors"))) > 1
    loaded = HartPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert_same_picture(picture(loaded, class_labels=1), picture(label_pipeline, class_labels=1))
    with pytest.raises(UserError):
        HartPipeline.from_pretrained(tmp_path, variant="bf16")


BAD_CALLS = {
    "a text or a list of texts": {"prompt": 3},
    "list of texts": {"prompt": ["a", None]},
    "exactly one of": {},
    "pass exactly one": {"prompt": "a", "class_labels": 1},
    "text-conditional: pass prompt instead of class_labels": {"class_labels": 1},
    "one generator per image: 2, got 1": {"prompt": ["a", "b"], "generator": [seeded()]},
    "must be a torch.Generator": {"prompt": "a", "generator": 3},
    "output_type must be": {"prompt": "a", "output_type": "jpeg"},
    "num_images_per_prompt": {"prompt": "a", "num_images_per_prompt": 0},
    "top_p must be between": {"prompt": "a", "top_p": 1.5},
    "temperature must be between": {"prompt": "a", "temperature": 0.0},
    "guidance_scale must be between 0 and 1000": {"prompt": "a", "guidance_scale": -1.0},
    "top_k must be at least 0": {"prompt": "a", "top_k": -1},
    "residual_steps must be between": {"prompt": "a", "residual_steps": 0},
    "must be a number, got 'much'": {"prompt": "a", "guidance_scale": "much"},
    "prompt_embeds must be": {"prompt_embeds": torch.zeros(1, 3, 384)},
    "prompt_attention_mask must be": {
        "prompt_embeds": torch.zeros(1, TOKENS, 384),
        "prompt_attention_mask": torch.ones(1, 3),
    },
    "not both": {"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": torch.zeros(1, 8, 384)},
    "negative_prompt_embeds must be": {"prompt": "a", "negative_prompt_embeds": torch.zeros(1, 3, 384)},
    "one negative prompt, or one per prompt: 1, got 2": {"prompt": "a", "negative_prompt": ["b", "c"]},
    "max_sequence_length must be": {"prompt": "a", "max_sequence_length": 99},
    "callback_on_step_end must be": {"prompt": "a", "callback_on_step_end": 3},
    "tensor_inputs must be among": {"prompt": "a", "callback_on_step_end_tensor_inputs": ["codes"]},
    "prompt_attention_mask goes with prompt_embeds": {
        "prompt": "a",
        "prompt_attention_mask": torch.ones(1, TOKENS),
    },
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_calls_are_told_in_a_sentence(text_pipeline, message):
    with pytest.raises(UserError, match=message):
        text_pipeline(**BAD_CALLS[message])


@pytest.mark.parametrize("labels", [-1, 6, [0, 9], 1.5, "cat", []])
def test_bad_classes(label_pipeline, labels):
    with pytest.raises(UserError, match="class_labels must"):
        label_pipeline(class_labels=labels)


def test_without_a_text_encoder_only_the_empty_prompt_works(text_pipeline, text_model):
    bare = HartPipeline.from_pretrained(text_model, text_encoder=None, text_tokenizer=None)
    bare.set_progress_bar_config(disable=True)
    assert_same_picture(picture(bare, ""), picture(text_pipeline, ""))
    with pytest.raises(UserError, match="without a text encoder"):
        bare("a cat")


def test_a_prompt_for_a_class_model(label_pipeline):
    with pytest.raises(UserError, match="class-conditional: pass class_labels instead of prompt"):
        label_pipeline("a cat")


def test_a_long_prompt_is_cut_with_a_warning(text_pipeline):
    with pytest.warns(UserWarning, match=f"first {TOKENS} tokens"):
        text_pipeline("a very long story about a cat and a dog and their many friends")


def test_parts_must_fit(text_pipeline):
    with pytest.raises(UserError, match="scales must be"):
        HartPipeline(tiny_tokenizer(scales=[1, 2, 4]), tiny_transformer())
    with pytest.raises(UserError, match="condition_dim must be 32, got 16"):
        HartPipeline(tiny_tokenizer(), tiny_transformer(), tiny_head(condition_dim=16))
    with pytest.raises(UserError, match="text encoder's width must be 12, got 384"):
        HartPipeline(tiny_tokenizer(), tiny_transformer(), text_encoder=text_pipeline.text_encoder)
    with pytest.raises(UserError, match="no setting warmth"):
        HartPipeline(tiny_tokenizer(), tiny_transformer(), sampling={"warmth": 1})


@pytest.fixture
def copied(text_model, tmp_path):
    return shutil.copytree(text_model, tmp_path / "model")


def fails(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        HartPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_unknown_models(tmp_path):
    fails(tmp_path / "nothing", "no model at")
    fails(tmp_path, "no model_index.json")


def weights(folder, part="transformer"):
    return folder / part / "diffusion_pytorch_model.safetensors"


def test_truncated_weights(copied):
    file = weights(copied)
    file.write_bytes(file.read_bytes()[:-1000])
    fails(copied, "broken or cut short")


def test_missing_weights(copied):
    weights(copied).unlink()
    fails(copied, "no weights in")


def test_weights_that_lack_a_tensor(copied):
    tensors = load_file(weights(copied, "residual_head"))
    del tensors["output.weight"]
    save_file(tensors, weights(copied, "residual_head"))
    fails(copied, "output.weight")


def change_config(folder, part, **values):
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("transformer", {"scales": [1, 2, 4]}, "scales must be"),
        ("transformer", {"scales": [2, 4]}, "first scale must be 1×1|scales must be"),
        ("transformer", {"width": 64}, "is 32×384, not 64×384"),
        ("transformer", {"depth": 3}, "tensors are missing|cannot load"),
        ("transformer", {"depth": 1}, "not in the model|cannot load"),
        ("transformer", {"norm": 3}, "norm|cannot load"),
        ("transformer", {"colour": 3}, "unknown setting colour"),
        ("image_tokenizer", {"scales": [1, 9, 4]}, "does not fit into the last"),
        ("image_tokenizer", {"scales": "big"}, "must be a list"),
    ],
)
def test_configs_that_do_not_fit(copied, part, values, message):
    change_config(copied, part, **values)
    fails(copied, message)


def test_broken_index(copied):
    (copied / "model_index.json").write_text("{")
    fails(copied, "cannot be read as JSON")
