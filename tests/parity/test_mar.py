"""MAR's published program against ours, on a small checkpoint of the released layout."""

import json

import pytest
import torch
from safetensors.torch import load_file

from openhart.conversion.mar import convert_mar
from openhart.generation.masked import generate_masked, plan_steps
from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.pipelines.mar import MarPipeline
from openhart.residual.diffusion import diffusion_loss
from openhart.residual.schedule import cosine_schedule
from openhart.training.generator.masked.batch import MaskedBatch
from openhart.training.generator.masked.losses import MaskedLosses
from openhart.transformer.masked import places_of
from tests.parity.compare import assert_near, assert_same
from tests.parity.conftest import MAR

SHAPE = json.loads((MAR / "shape.json").read_text())
NONE = SHAPE["class_num"]
GRADIENTS = {
    "decoder_embed.bias": "transformer.decoder_embed.bias",
    "diffloss.net.cond_embed.bias": "diffusion_head.condition.bias",
    "diffloss.net.final_layer.linear.weight": "diffusion_head.output.weight",
    "diffloss.net.res_blocks.0.adaLN_modulation.1.bias": "diffusion_head.blocks.0.modulation.bias",
    "diffusion_pos_embed_learned": "transformer.output_positions",
    "encoder_blocks.0.attn.qkv.weight": "transformer.encoder_blocks.0.attention.qkv.weight",
    "encoder_pos_embed_learned": "transformer.encoder_positions",
    "fake_latent": "label_encoder.embedding.weight",
    "mask_token": "transformer.mask_token",
    "z_proj.weight": "transformer.token_embed.weight",
    "z_proj_ln.weight": "transformer.token_norm.weight",
}


@pytest.fixture(scope="module")
def mar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mar") / "model"
    convert_mar(MAR / "kl16.ckpt", MAR / "checkpoint-last.pth", folder, num_heads=SHAPE["encoder_num_heads"])
    return MarPipeline.from_pretrained(folder)


def case_of(name):
    return load_file(MAR / f"{name}.safetensors")


def test_autoencoder(mar):
    case, tokenizer = case_of("vae_case"), mar.image_tokenizer
    found = tokenizer.encode(case["image"]).latent_dist
    assert_near(found.mean, case["mean"])
    assert_near(found.logvar, case["log_variance"])
    torch.testing.assert_close(found.kl(), case["kl"], atol=1e-4, rtol=1e-6)
    sample = found.mean + found.std * case["noise"]
    assert_near(sample, case["sample"])
    assert_near(tokenizer.scaled(sample), case["latents"])
    assert_near(tokenizer.decode_unclamped(case["latents"]), case["image_from_sample"])
    assert_near(tokenizer.decode_unclamped(tokenizer.scaled(case["mean"])), case["image_from_mean"])


@pytest.mark.parametrize("masked", ["most", "few", "all"])
def test_transformer(mar, masked):
    case, transformer = case_of("transformer_case"), mar.transformer
    tokens = transformer.patchify(case["latents"])
    assert_same(tokens, case["tokens"])
    assert_same(transformer.unpatchify(tokens), case["unpatchified"])
    known = places_of(~case[f"{masked}.mask"])
    for kind, labels in (("labelled", case["labels"]), ("unlabelled", torch.full_like(case["labels"], NONE))):
        if f"{masked}.{kind}.z" not in case:
            continue
        condition = mar.label_encoder(labels, return_dict=False)
        output = transformer(tokens, known, *condition)
        assert_near(output.encoded, case[f"{masked}.{kind}.encoded"])
        assert_near(output.hidden_states, case[f"{masked}.{kind}.z"])


def test_training_step(mar):
    case, transformer, head = case_of("training_case"), mar.transformer, mar.diffusion_head
    labels = case["labels"].masked_fill(case["label_dropped"], NONE)
    masked = case["mask"]
    with torch.enable_grad():
        condition = mar.label_encoder(labels, return_dict=False)
        tokens = transformer.patchify(case["latents"])
        output = transformer(tokens, places_of(~masked), *condition)
        rows = (-1, transformer.num_tokens)
        t, noise = (case[f"diffusion_{name}"].unflatten(0, rows) for name in ("t", "noise"))
        error, bound = diffusion_loss(
            head, tokens, output.hidden_states, t, noise, cosine_schedule(), transformer.size
        )
        weights = masked.repeat(len(t) // len(masked), 1).float()
        loss = ((error + bound) * weights).sum() / weights.sum()
        places = places_of(masked)
        repeated = places.repeat(len(t) // len(masked), 1)
        batch = MaskedBatch(
            latents=case["latents"],
            known=places_of(~masked),
            masked=places,
            condition=(labels,),
            times=t.take_along_dim(repeated, dim=1),
            noise=noise.take_along_dim(repeated[..., None], dim=1),
        )
        trained = MaskedLosses(transformer, head, mar.label_encoder)(batch)["loss"]
        trained.backward()
    assert_near(output.encoded, case["encoded"])
    assert_near(output.hidden_states, case["z"])
    assert_near(error.flatten(), case["diffusion_mse"])
    assert_near(bound.flatten(), case["diffusion_vb"])
    assert_near(loss, case["loss"])
    assert_near(trained, case["loss"])
    for theirs, ours in GRADIENTS.items():
        part, name = ours.split(".", 1)
        gradient = getattr(mar, part).get_parameter(name).grad
        gradient = gradient[-1:] if theirs == "fake_latent" else gradient
        assert_near(gradient, case[f"grad.{theirs}"].reshape(gradient.shape))
    for part in (transformer, head, mar.label_encoder):
        part.zero_grad()


class RecordedDraws:
    """Orders and noise that the published program drew, its noise by place."""

    def __init__(self, case, steps):
        self.batch, self.recorded_orders = len(case["orders"]), case["orders"]
        self.noise = self._noise(case, steps)

    def _noise(self, case, steps):
        for index in range(int(case["iteration"].max()) + 1):
            now = case["iteration"] == index
            for noise in (case["initial_noise"], *case["step_noise"][: steps - 1]):
                yield noise[now].unflatten(0, (self.batch, -1))

    def orders(self, count):
        return self.recorded_orders

    def normal(self, shape):
        noise = next(self.noise)
        assert noise.shape[1:] == tuple(shape)
        return noise


@pytest.mark.parametrize("name", SHAPE["sampling"])
def test_sampling(mar, name):
    case, values, transformer = case_of(f"sampling_{name}"), SHAPE["sampling"][name], mar.transformer
    settings = MaskedSamplingSettings(
        guidance_scale=values["cfg"],
        guidance_schedule=values["cfg_schedule"],
        num_inference_steps=values["num_iter"],
        temperature=values["temperature"],
        diffusion_steps=values["num_sampling_steps"],
    )
    planned = [step.guidance_scale for step in plan_steps(transformer.num_tokens, settings)]
    assert planned == pytest.approx(case["guidance"].tolist(), abs=1e-6)
    calls = []
    hook = transformer.register_forward_hook(lambda _module, given, output: calls.append((given, output)))
    condition, empty = mar.label_encoder.encode(case["labels"]), mar.label_encoder.empty(1)
    draws = RecordedDraws(case, values["num_sampling_steps"])
    states = list(generate_masked(transformer, mar.diffusion_head, condition, empty, draws, settings))
    hook.remove()
    masks = torch.cat([torch.ones_like(case["masks"][:1]), torch.stack([s.unknown for s in states])])
    assert_same(masks[:-1], case["masks"])
    assert not masks[-1].any()
    for index, (given, output) in enumerate(calls):
        halves = output.hidden_states.chunk(2 if "z_unlabelled" in case else 1)
        wanted = given[4][: len(halves[0])]
        assert_same(wanted, places_of(case["iteration"] == index))
        for half, recorded in zip(halves, ("z", "z_unlabelled"), strict=False):
            assert_near(half, case[recorded].take_along_dim(wanted[..., None], dim=1))
    latents = states[-1].features
    assert_near(transformer.patchify(latents), case["tokens"])
    assert_near(latents, case["latents"])
    assert_near(mar.image_tokenizer.decode_unclamped(latents), case["image"])
    assert len(calls) == values["num_iter"]
    assert next(draws.noise, None) is None
