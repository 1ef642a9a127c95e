"""Pipelines of diffusers, tiny and random, loaded and sampled like OpenHART's own."""

import json

import numpy as np
import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.any_pipeline import load_any_pipeline
from openhart.evaluation.samples.layouts import plan_imagenet, plan_mjhq
from openhart.evaluation.samples.make import make_samples
from openhart.pipelines.hart import HartPipeline


@pytest.fixture
def autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)


@pytest.fixture
def dit(autoencoder, tmp_path):
    """A class-conditional diffusion transformer."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        norm_num_groups=4, sample_size=8, patch_size=4, num_embeds_ada_norm=1000,
    )  # fmt: skip
    DiTPipeline(transformer, autoencoder, DDIMScheduler()).save_pretrained(tmp_path / "dit")
    return str(tmp_path / "dit")


@pytest.fixture
def stable_diffusion(autoencoder, tmp_path):
    """A text-conditional diffusion model."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, eos_token_id=len(words) - 1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=autoencoder, text_encoder=CLIPTextModel(config), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path / "sd")  # fmt: skip
    return str(tmp_path / "sd")


def test_a_class_conditional_pipeline_is_sampled(dit, tmp_path):
    pipeline = load_any_pipeline(dit)
    plan = plan_imagenet(3, images_per_class=1)
    make_samples(pipeline, dit, plan, tmp_path / "out", quiet=True, call={"num_inference_steps": 1})
    images = [np.array(Image.open(path)) for path in sorted((tmp_path / "out").glob("*.png"))]
    assert len(images) == 3
    assert not np.array_equal(images[0], images[1])
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (record["pipeline"], record["sampling"]["num_inference_steps"]) == ("DiTPipeline", 1)
    assert record["sampling"]["scheduler"]["class"] == "DDIMScheduler"


def test_a_text_conditional_pipeline_is_sampled(stable_diffusion, tmp_path):
    (tmp_path / "meta_data.json").write_text(
        json.dumps({"a": {"category": "art", "prompt": "a cat"}, "b": {"category": "art", "prompt": "a dog"}})
    )
    plan = plan_mjhq(tmp_path / "meta_data.json")
    pipeline = load_any_pipeline(stable_diffusion)
    call = {"num_inference_steps": 1, "guidance_scale": 2.0, "height": 8, "width": 8}
    make_samples(pipeline, stable_diffusion, plan, tmp_path / "out", quiet=True, call=call)
    assert Image.open(tmp_path / "out" / "b.jpg").size == (8, 8)
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert set(record["precision"]) == {"text_encoder", "unet", "vae"}


def test_own_and_missing_models(text_model, tmp_path):
    assert isinstance(load_any_pipeline(str(text_model)), HartPipeline)
    with pytest.raises(UserError):
        load_any_pipeline(str(tmp_path / "none"))
