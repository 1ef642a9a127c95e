"""VQGAN's reference program against ours, on a small released-style checkpoint."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from openhart.conditioning.encoder import EncodedContext
from openhart.conversion.vqgan import convert_vqgan
from openhart.conversion.vqgan_files import DATA_CLASSES
from openhart.conversion.weights import read_content
from openhart.generation.raster import generate
from openhart.generation.raster_settings import RasterSampling
from openhart.pipelines.vqgan import VqganPipeline
from openhart.randomness import SeededDraws
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.training.generator.raster.batch import RasterBatch
from openhart.training.generator.raster.losses import RasterLosses
from openhart.training.tokenizer.discriminator import adaptive_weight, discriminator_loss
from openhart.training.tokenizer.losses import quantization_loss
from tests.parity.compare import assert_near, assert_same
from tests.parity.conftest import RECORDED

VQGAN = RECORDED / "vqgan-tiny"
NEGLIGIBLE = 1e-12
"""Below this, the reference program's top-k and top-p have removed a code."""


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vqgan") / "model"
    convert_vqgan(VQGAN / "transformer", folder)
    return VqganPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def cases():
    names = ("tokenizer", "losses", "transformer", "sampling")
    return {name: load_file(VQGAN / f"{name}_case.safetensors") for name in names}


def labels_context(vqgan, labels):
    return vqgan.label_encoder(labels, return_dict=False)[0]


def test_the_tokenizer_of_a_release_of_its_own(tmp_path, vqgan, cases):
    released = tmp_path / "released"
    shutil.copytree(VQGAN / "tokenizer", released)
    tensors = read_content(VQGAN / "transformer/checkpoints/last.ckpt", DATA_CLASSES)["state_dict"]
    prefix = "first_stage_model."
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    own |= {"loss.discriminator.main.0.weight": torch.zeros(1), "colorize": torch.zeros(1)}
    (released / "ckpts").mkdir()
    torch.save({"state_dict": own, "epoch": 1}, released / "ckpts" / "last.ckpt")
    convert_vqgan(released, tmp_path / "converted")
    tokenizer = VqganTokenizer.from_pretrained(tmp_path / "converted")
    assert_same(
        tokenizer.encode(cases["tokenizer"]["image"]),
        vqgan.image_tokenizer.encode(cases["tokenizer"]["image"]),
    )


def test_codes_and_images(vqgan, cases):
    case, tokenizer = cases["tokenizer"], vqgan.image_tokenizer
    features = tokenizer.encode(case["image"])
    assert_near(features, case["features"])
    quantized = tokenizer.quantize(features)
    assert_same(quantized.codes[0], case["indices"])
    assert_near(quantized.f_hats[-1], case["quantized"])
    made = tokenizer.decode_unclamped(tokenizer.quantizer.decode([case["indices"]]))
    assert_near(made, case["image_from_codes"])


@pytest.mark.parametrize(
    ("prefix", "weights"),
    [("", {"commitment": 1.0, "code_weight": 0.25}), ("not_legacy.", {"commitment": 0.25})],
)
@torch.enable_grad()
def test_loss_of_the_quantizer(vqgan, cases, prefix, weights):
    case, quantizer = cases["tokenizer"], vqgan.image_tokenizer.quantizer
    features = case["features"].clone().requires_grad_()
    loss = quantization_loss(features, quantizer.quantize(features), **weights)
    assert_near(loss, case[f"{prefix}loss"])
    gradients = torch.autograd.grad(loss, [features, quantizer.codebook.weight])
    assert_near(gradients[0], case[f"{prefix}grad_loss.features"])
    assert_near(gradients[1], case[f"{prefix}grad_loss.codebook"])


@pytest.fixture
def discriminator():
    """PatchGAN of two layers with batch norm, as the reference program trains it; ours has another norm."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 1, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 4, 1, 1),
    )  # fmt: skip
    network.load_state_dict(load_file(VQGAN / "discriminator.safetensors"))
    return network


@torch.enable_grad()
def test_losses_of_the_tokenizer_and_their_gradients(vqgan, cases, discriminator):
    case, tokenizer = cases["losses"], vqgan.image_tokenizer
    features = tokenizer.encode(case["image"])
    quantized = tokenizer.quantize(features)
    reconstruction = tokenizer.decode_unclamped(features + (quantized.f_hats[-1] - features).detach())
    assert_near(reconstruction, case["reconstruction"])
    likeness, adversarial = F.l1_loss(reconstruction, case["image"]), -discriminator(reconstruction).mean()
    codes = quantization_loss(features, quantized, commitment=1.0, code_weight=0.25)
    last = tokenizer.decoder.last_layer
    weight = 0.75 * adaptive_weight(likeness, adversarial, last, lambda gradient: gradient)
    total = likeness + weight * adversarial + codes
    ours = {"nll_loss": likeness, "g_loss": adversarial, "quant_loss": codes}
    ours |= {"d_weight": weight, "total_loss": total}
    for name, value in ours.items():
        assert_near(value, case[name])
    assert_near(torch.autograd.grad(likeness, last, retain_graph=True)[0], case["nll_grad_at_last_layer"])
    assert_near(torch.autograd.grad(adversarial, last, retain_graph=True)[0], case["g_grad_at_last_layer"])
    names = {
        "decoder.conv_out.weight": last,
        "encoder.conv_out.bias": tokenizer.encoder.conv_out.bias,
        "post_quant_conv.bias": tokenizer.post_quant_conv.bias,
        "quant_conv.weight": tokenizer.quant_conv.weight,
        "quantize.embedding.weight": tokenizer.quantizer.codebook.weight,
    }
    gradients = torch.autograd.grad(total, list(names.values()))
    for name, gradient in zip(names, gradients, strict=True):
        assert_near(gradient, case[f"grad.{name}"])


def test_loss_of_the_discriminator(cases, discriminator):
    case = cases["losses"]
    real, fake = discriminator(case["image"]), discriminator(case["reconstruction"])
    assert_near(real, case["logits_real"])
    assert_near(fake, case["logits_fake"])
    assert_near(discriminator_loss(real, fake), case["disc_loss"])
    assert_near(discriminator_loss(real, fake, "vanilla"), case["disc_loss_vanilla"])


def test_teacher_forced_logits(vqgan, cases):
    case = cases["transformer"]
    context = labels_context(vqgan, case["condition_tokens"][:, 0])
    logits = vqgan.transformer(case["indices"][:, :-1], context).logits
    assert_near(logits, case["logits"])
    assert_near(F.cross_entropy(logits.flatten(0, 1), case["indices"].flatten()), case["loss"])


@torch.enable_grad()
def test_gradients_with_replaced_inputs(vqgan, cases):
    case, transformer = cases["transformer"], vqgan.transformer
    inputs = torch.where(case["training.kept"], case["indices"], case["training.random_indices"])
    context = transformer.embed(case["condition_tokens"])  # one table, so that its gradient is complete
    assert_near(transformer(inputs[:, :-1], context).logits, case["training.logits"])
    batch = RasterBatch(case["indices"], inputs[:, :-1], (context, torch.ones(context.shape[:2])))
    loss = RasterLosses(transformer, EncodedContext())(batch)["loss"]
    assert_near(loss, case["training.loss"])
    names = {
        "tok_emb.weight": transformer.code_embed.weight,
        "pos_emb": transformer.position_embed,
        "blocks.0.attn.query.bias": transformer.blocks[0].attention.q_bias,
        "blocks.1.mlp.0.bias": transformer.blocks[1].mlp[0].bias,
        "head.weight": transformer.head.weight,
    }
    gradients = torch.autograd.grad(loss, list(names.values()))
    for name, gradient in zip(names, gradients, strict=True):
        assert_near(gradient, case[f"training.grad.{name}"].reshape(gradient.shape))


class RecordedCodes(SeededDraws):
    """Draws the recorded codes, and keeps the scores from which it might have drawn."""

    def __init__(self, codes):
        super().__init__([torch.Generator() for _ in codes])
        self.recorded, self.scores = codes, []

    def codes(self, logits, scale_index):
        self.scores.append(logits)
        return self.recorded[:, scale_index, None]


def sample(vqgan, cases, draws, **settings):
    context = labels_context(vqgan, cases["sampling"]["labels"])
    quantizer = vqgan.image_tokenizer.quantizer
    *_, state = generate(vqgan.transformer, quantizer, context, None, draws, RasterSampling(**settings))
    return state


def test_greedy_codes_and_their_images(vqgan, cases):
    case = cases["sampling"]
    draws = SeededDraws([torch.Generator() for _ in case["labels"]])
    state = sample(vqgan, cases, draws, top_k=1)
    assert_same(state.codes.flatten(1), case["greedy.indices"])
    assert_near(vqgan.image_tokenizer.decode_unclamped(state.features), case["greedy.image"])


def test_logits_and_probabilities_of_drawn_codes(vqgan, cases):
    case, drawn = cases["sampling"], json.loads((VQGAN / "shape.json").read_text())["drawn"]
    plain, truncated = (RecordedCodes(case["drawn.indices"]) for _ in range(2))
    sample(vqgan, cases, plain, top_k=0)
    assert_near(torch.cat(plain.scores, dim=1), case["drawn.logits"])
    state = sample(vqgan, cases, truncated, **drawn)
    shares = torch.cat(truncated.scores, dim=1).softmax(dim=-1)
    assert_near(shares, case["drawn.probabilities"])
    assert torch.equal(shares > NEGLIGIBLE, case["drawn.probabilities"] > NEGLIGIBLE)
    assert_near(vqgan.image_tokenizer.decode_unclamped(state.features), case["drawn.image"])


def test_the_pipeline_gives_the_recorded_image(vqgan, cases):
    case = cases["sampling"]
    images = vqgan(class_labels=case["labels"], top_k=1, output_type="pt").images
    assert_near(images, (case["greedy.image"] / 2 + 0.5).clamp(0, 1))
