"""Image tokenizers of the sibling families are trained by the same command, loop and losses."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from openhart.cli import main
from openhart.data import open_dataset
from openhart.model_files import load_image_tokenizer
from openhart.training.recipes import load_recipe
from openhart.training.tokenizer import train as tokenizer
from openhart.training.tokenizer.discriminator import PatchDiscriminator
from openhart.training.tokenizer.recipe import TokenizerRecipe
from tests.tiny import tiny_kl, tiny_vqgan_tokenizer
from tests.training.corpus import logged, run_section, write_recipe
from tests.training.test_runs import corpus, stop_at

__all__ = ["corpus"]

SHAPE = {"base_channels": 32, "channel_multipliers": [1, 1, 1], "encoder_blocks": 1, "decoder_blocks": 1}
CODES = {**SHAPE, "attention_levels": [], "middle_attention": False, "feature_channels": 8, "code_dim": 8,
         "codebook_size": 32, "scales": [8]}  # fmt: skip
PUBLISHED = {"commitment": 1.0, "code_weight": 0.25}
VQ = [
    {"name": "continuous", "steps": 20},
    {"name": "codes", "steps": 60, "discrete_share": 1.0, "kmeans_start": True},
]
KINDS = {
    "vq-vae": ({**CODES, "kind": "vqgan"}, VQ, {}),
    "vqgan": ({**CODES, "kind": "vqgan", "attention_levels": [2]}, VQ, PUBLISHED),
    "gumbel": ({**CODES, "kind": "gumbel"}, [{"name": "codes", "steps": 300}], {}),
    "kl": (
        {**SHAPE, "kind": "kl", "latent_channels": 4, "image_size": [32, 32]},
        [{"name": "all", "steps": 150}],
        {},
    ),
}
REMAINS = {"vq-vae": 0.6, "vqgan": 0.6, "gumbel": 0.8, "kl": 0.8}
"""Largest part of the first loss that remains; random codes and latents learn more slowly."""
LAST = {"name": "adversarial", "steps": 2, "adversarial": True}


def kind_recipe(kind, corpus, output, phases=None, **run):
    model, usual, losses = KINDS[kind]
    return {
        "run": run_section(output, **run),
        "data": {"train": str(corpus), "batch_size": 8, "workers": 0},
        "model": model,
        "phases": phases or usual,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2},
        "losses": {"perceptual": None, "discriminator_width": 8, "adversarial_ramp_steps": 0, **losses},
    }


def short_phases(kind):
    """One step without and two with the adversarial loss."""
    codes = {"discrete_share": 1.0} if kind.startswith("vq") else {}
    return [{"name": "first", "steps": 2, **codes}, {**LAST, **codes}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_reconstruct_from_what_a_generator_will_make(corpus, tmp_path, kind, capsys):
    recipe = write_recipe(tmp_path / "recipe.yaml", kind_recipe(kind, corpus, tmp_path, ema_decay=0.9))
    folder = tokenizer.train(recipe, quiet=True)
    likeness = logged(tmp_path, "likeness")
    assert np.mean(likeness[-4:]) < REMAINS[kind] * np.mean(likeness[:3])
    model = load_image_tokenizer(folder)
    data = open_dataset(str(corpus), model.image_size)
    images = torch.stack([data[index][0] for index in range(len(data))])
    with torch.no_grad():
        features = list(model.versions(images).values())[-1]
        error = (model.decode(features) - images).abs().mean()
    assert error < REMAINS[kind] * (images - images.mean()).abs().mean()
    if kind == "kl":
        with torch.no_grad():
            sampled = model.encode(images).latent_dist.sample(torch.Generator().manual_seed(0))
        assert float(model.scaled(sampled).std()) == pytest.approx(1, abs=0.1)
    assert main(["info", str(folder)]) == 0
    assert type(model).__name__ in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_same_losses_and_weights_to_the_bit(corpus, tmp_path, kind):
    losses, folders = [], []
    for name, stops in (("whole", []), ("stopped", [1, 3])):
        output = tmp_path / name
        output.mkdir()
        values = kind_recipe(kind, corpus, output, short_phases(kind), save_every=1)
        recipe = write_recipe(output / "recipe.yaml", values)
        for step in stops:
            stop_at(tokenizer, recipe, step)
        folders.append(tokenizer.train(recipe, quiet=True))
        losses.append([logged(output, metric) for metric in ("loss", "adversarial", "gradient_norm")])
    assert losses[0] == losses[1]
    first, second = (load_image_tokenizer(folder) for folder in folders)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    the_adversary_begins_at_full_weight_with_its_phase(kind, tmp_path / "whole")


def the_adversary_begins_at_full_weight_with_its_phase(kind, output):
    balance, adversarial = (logged(output, name) for name in ("adversarial_balance", "adversarial"))
    assert len(balance) == len(adversarial) == LAST["steps"]
    loss, likeness = (logged(output, name)[-len(balance) :] for name in ("loss", "likeness"))
    name, weight = {"vq": ("quantization", 1.0), "gu": ("kl", 1e-8), "kl": ("kl", 1e-6)}[kind[:2]]
    rest = logged(output, name)[-len(balance) :]
    for index in range(LAST["steps"]):
        whole = likeness[index] + weight * rest[index] + 0.5 * balance[index] * adversarial[index]
        assert loss[index] == pytest.approx(whole, rel=1e-4)


def test_a_gumbel_temperature_falls_along_half_a_cosine(corpus, tmp_path):
    values = kind_recipe("gumbel", corpus, tmp_path)
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", values), TokenizerRecipe)
    temperatures = [recipe.temperature.at(number, recipe.steps) for number in (0, 150, 299, 300, 500)]
    assert temperatures[0] == 0.9
    assert temperatures[1] == pytest.approx(0.45, abs=1e-3)
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[-1] == pytest.approx(1e-6)
    values["temperature"] = {"steps": 1000}
    longer = load_recipe(write_recipe(tmp_path / "recipe.yaml", values), TokenizerRecipe)
    assert longer.temperature.at(500, longer.steps) == pytest.approx(0.45, abs=1e-3)


def test_vqgan_has_as_many_layers_in_its_discriminator_as_its_recipe_states():
    image = torch.zeros(1, 3, 32, 32)
    assert [PatchDiscriminator(8, depth)(image).shape[-1] for depth in (1, 2, 3)] == [14, 6, 2]
    assert sum("weight" in name for name in PatchDiscriminator(8, 2).state_dict()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_counts_each_kind(corpus, tmp_path, kind, capsys):
    values = kind_recipe(kind, corpus, tmp_path / "run", short_phases(kind))
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    assert main(["train", "tokenizer", str(recipe), "--dry-run"]) == 0
    assert "tokens      64 per sample" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    tiny_kl().save_pretrained(root / "kl")
    tiny_vqgan_tokenizer().save_pretrained(root / "vqgan")
    return root


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("kl", {"model.kind": "vae"}, "model.kind must be hybrid, vqgan, gumbel or kl, got 'vae'"),
        ("kl", {"model.codebook_size": 8}, "unknown setting codebook_size; KLAutoencoder has"),
        ("kl", {"model.image_size": [30, 30]}, "image sides must be multiples of 4, got 30×30"),
        ("kl", {"phases.0.discrete_share": 1.0}, "there is no setting phases.0.discrete_share"),
        ("kl", {"losses.commitment": 0.25}, "there is no setting losses.commitment"),
        ("kl", {"initial": "TRAINED/vqgan"}, "is a VqganTokenizer, but a recipe with model.kind kl trains a"),
        ("gumbel", {"phases.0.kmeans_start": True}, "there is no setting phases.0.kmeans_start"),
        ("gumbel", {"temperature.end": 0}, "temperature.end must be greater than 0"),
        ("gumbel", {"model.quantizer_kind": "nearest"}, "model.kind determines quantizer_kind: leave it out"),
        ("gumbel", {"initial": "TRAINED/vqgan"}, "do not fit its config"),
        ("vqgan", {"phases.1.discrete_share": 0.5}, "the last phase must have discrete_share: 1"),
        ("vqgan", {"model.in_channels": 5}, "in_channels must be 3"),
        ("vqgan", {"losses.kl_weight": 1}, "there is no setting losses.kl_weight"),
        ("vqgan", {"losses.discriminator_loss": "wgan"}, "must be 'hinge' or 'vanilla', got 'wgan'"),
        ("vqgan", {"model.scales": [1, 8]}, "must have one entry"),
    ],
)
def test_wrong_settings_are_one_sentence(corpus, trained, tmp_path, capsys, kind, change, message):
    recipe = write_recipe(tmp_path / "recipe.yaml", kind_recipe(kind, corpus, tmp_path / "run"))
    overrides = [
        f"{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
        for name, value in change.items()
    ]
    overrides = [text.replace("TRAINED", str(trained)) for text in overrides]
    assert main(["train", "tokenizer", str(recipe), *overrides]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_codes_that_are_replaced_are_replaced_in_the_averages_too(corpus, tmp_path):
    codes = {"name": "codes", "steps": 2, "discrete_share": 1.0, "kmeans_start": True}
    values = kind_recipe("vq-vae", corpus, tmp_path / "run", [{"name": "continuous", "steps": 20}, codes])
    values |= {"revive_every": 1, "revival_memory": 0.3}
    folder = tokenizer.train(write_recipe(tmp_path / "t.yaml", values), quiet=True)
    averaged = load_image_tokenizer(folder).quantizer.codebook.weight
    (last,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    trained = load_file(last / "model.safetensors")["tokenizer.quantizer.codebook.weight"]
    assert (averaged - trained).norm() < 0.05 * trained.norm()
