"""Tiny whole models, in folders, with the packaged text encoder."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: no GPU is needed

import pytest
import torch

from openhart.conditioning.label import LabelEncoder
from openhart.conditioning.text import DEFAULT_TEXT_ENCODER, load_text_encoder
from openhart.pipelines.hart import HartPipeline
from openhart.pipelines.mar import MarPipeline
from openhart.pipelines.vqgan import VqganPipeline
from tests.tiny import (
    shaken,
    tiny_head,
    tiny_kl,
    tiny_masked_transformer,
    tiny_raster,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan_tokenizer,
)

torch.set_num_threads(1)
TOKENS = 8


@pytest.fixture(scope="session")
def text_pipeline() -> HartPipeline:
    text_tokenizer, text_encoder = load_text_encoder()
    pipeline = HartPipeline(
        image_tokenizer=tiny_tokenizer(),
        transformer=tiny_transformer(context_dim=384, context_tokens=TOKENS),
        residual_head=tiny_head(),
        text_encoder=text_encoder,
        text_tokenizer=text_tokenizer,
        text_encoder_name=DEFAULT_TEXT_ENCODER,
        max_tokens=TOKENS,
        sampling={"guidance_scale": 3.0, "top_k": 16},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def label_pipeline() -> HartPipeline:
    pipeline = HartPipeline(
        image_tokenizer=tiny_tokenizer(hybrid=False),
        transformer=tiny_transformer(
            context_dim=32, context_tokens=1, context_norm=False, context_projection=False
        ),
        label_encoder=shaken(LabelEncoder(num_classes=5, dim=32)),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def mar_pipeline() -> MarPipeline:
    pipeline = MarPipeline(
        image_tokenizer=tiny_kl(),
        transformer=tiny_masked_transformer(),
        diffusion_head=tiny_head(code_dim=4, residual_scale=1.0, limit=4.0),
        label_encoder=shaken(LabelEncoder(num_classes=5, dim=32)),
        sampling={"num_inference_steps": 5, "diffusion_steps": 6},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def text_mar_pipeline(text_pipeline) -> MarPipeline:
    pipeline = MarPipeline(
        image_tokenizer=tiny_kl(),
        transformer=tiny_masked_transformer(
            buffer_tokens=TOKENS, context_tokens=TOKENS, context_dim=384, context_projection=True
        ),
        diffusion_head=tiny_head(code_dim=4, limit=4.0),
        text_encoder=text_pipeline.text_encoder,
        text_tokenizer=text_pipeline.text_tokenizer,
        text_encoder_name=DEFAULT_TEXT_ENCODER,
        sampling={"num_inference_steps": 3, "diffusion_steps": 4},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def text_vqgan_pipeline(text_pipeline) -> VqganPipeline:
    pipeline = VqganPipeline(
        image_tokenizer=tiny_vqgan_tokenizer(),
        transformer=tiny_raster(context_tokens=TOKENS, context_dim=384, context_projection=True),
        text_encoder=text_pipeline.text_encoder,
        text_tokenizer=text_pipeline.text_tokenizer,
        text_encoder_name=DEFAULT_TEXT_ENCODER,
        sampling={"top_k": 16},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session", params=["mar", "vqgan"])
def sibling_model(request, tmp_path_factory):
    """The folder of a text-conditional model of a family beside HART."""
    folder = tmp_path_factory.mktemp("models") / request.param
    request.getfixturevalue(f"text_{request.param}_pipeline").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_model(text_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "text"
    text_pipeline.save_pretrained(folder)
    return changeable(folder)


@pytest.fixture(scope="session")
def label_model(label_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "label"
    label_pipeline.save_pretrained(folder)
    return changeable(folder)


def changeable(folder):
    """A model folder whose files may be changed by hand; tests/test_damage.py keeps the checksums."""
    (folder / "checksums.json").unlink()
    return folder
