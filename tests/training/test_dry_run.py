"""What a dry run says of a recipe is what a step takes, and what the recipes' tables say."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openhart.cli import main
from openhart.conditioning.encoder import EncodedContext
from openhart.scales import split_by_scale
from openhart.training.dry_run import dry_run
from openhart.training.generator.hart.losses import Batch, GeneratorLosses
from openhart.training.generator.hart.recipe import HartRecipe
from tests.tiny import tiny_head, tiny_transformer
from tests.training.test_runs import generator_recipe, tokenizer_recipe, write_recipe

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
PUBLISHED = [path for folder in ("imagenet", "hart") for path in sorted((RECIPES / folder).glob("*.yaml"))]
SCALES, WIDTH, BATCH = [1, 2, 4, 8, 12], 256, 4
TOKENS = sum(side * side for side in SCALES)


def recipe_of_a_step(folder, **run):
    tokenizer = tokenizer_recipe("nowhere", folder / "t")
    tokenizer["model"]["scales"] = SCALES
    write_recipe(folder / "tokenizer.yaml", tokenizer)
    values = generator_recipe("nowhere", folder / "g", folder / "t" / "image_tokenizer")
    values |= {"model": {"depth": 4, "width": WIDTH, "num_heads": 4}}
    values["data"]["batch_size"] = BATCH
    values["run"] |= {"precision": "bf16"} | run
    return write_recipe(folder / "generator.yaml", values)


def parts_of_a_step(**values):
    values |= {"residual": {"width": 32, "depth": 2, "repeats": 2}, "optimizer": {"learning_rate": 1e-3}}
    nowhere = {"run": {"output": "a"}, "data": {"train": "a"}, "tokenizer": "a", "steps": 1}
    recipe = HartRecipe.model_validate(nowhere | values)
    settings = {"depth": 4, "width": WIDTH, "num_heads": 4, "scales": SCALES}
    transformer = tiny_transformer(**settings, context_dim=384, context_tokens=8)
    losses = GeneratorLosses(
        transformer,
        tiny_head(condition_dim=WIDTH, width=32),
        EncodedContext(),
        recipe,
    )
    codes = torch.randint(32, (BATCH, TOKENS))
    batch = Batch(
        codes=split_by_scale(codes, transformer.scales),
        scale_inputs=torch.randn(BATCH, TOKENS - 1, 8),
        continuous_target=torch.randn(BATCH, 144, 8),
        condition=(torch.randn(BATCH, 8, 384), torch.ones(BATCH, 8, dtype=torch.bool)),
        keep=None,
        codebook=torch.randn(32, 8),
        scales=transformer.scales,
        generators=[torch.Generator() for _ in range(BATCH)],
    )
    return losses.train(), batch


@pytest.mark.parametrize("aligned", [{}, {"embedding_losses": {"hidden": 256}}])
def test_operations_are_those_of_a_real_step_to_one_percent(tmp_path, aligned):
    losses, batch = parts_of_a_step(**aligned)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        losses(batch)["loss"].backward()
    path = recipe_of_a_step(tmp_path)
    path.write_text(path.read_text() + yaml.safe_dump(aligned) * bool(aligned))
    told = dry_run(path, "generator")
    assert told.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert told.parts["transformer"] == sum(p.numel() for p in losses.transformer.parameters())
    assert told.tokens == TOKENS


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_of_a_real_step_to_fifteen_percent(tmp_path, checkpointing):
    losses, batch = parts_of_a_step()
    if checkpointing:
        losses.transformer.enable_gradient_checkpointing()
    weights = {parameter.untyped_storage()._cdata for parameter in losses.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        losses(batch)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    told = dry_run(recipe_of_a_step(tmp_path, gradient_checkpointing=checkpointing), "generator").kept
    if checkpointing:  # the hooks of a real pass do not see the block that backward works out again
        one_block = (dry_run(recipe_of_a_step(tmp_path), "generator").kept - told) / 3
        assert real < told < real + 1.5 * one_block
    else:
        assert told == pytest.approx(real, rel=0.15)


def test_thinning_and_adapters_make_a_step_cheaper(tmp_path):
    pytest.importorskip("peft")
    recipe = recipe_of_a_step(tmp_path)
    full = dry_run(recipe, "generator")
    thinned = dry_run(recipe, "generator", ["token_dropping.min=0.5"])
    assert thinned.seen < full.seen == full.tokens
    assert thinned.flops < full.flops
    assert thinned.kept < full.kept
    adapted = dry_run(recipe, "generator", ["lora.rank=4", "initial=somewhere", "residual=null"])
    assert adapted.trained == adapted.parts["adapters"]
    assert adapted.memory["optimizer"] < full.memory["optimizer"] / 10


def test_spread_weights_take_less_of_each_gpu(tmp_path):
    recipe = recipe_of_a_step(tmp_path)
    whole, spread = (
        dry_run(recipe, "generator", [f"run.parallel={kind}"], gpus=4) for kind in ("ddp", "fsdp")
    )
    for name in ("gradients", "optimizer", "average"):
        assert spread.memory[name] == pytest.approx(whole.memory[name] / 4)
    assert spread.memory["weights"] < whole.memory["weights"]
    assert 0 < spread.memory["gathered"] < whole.memory["weights"]
    accumulating = dry_run(recipe, "generator", ["run.parallel=fsdp", "run.accumulation=2"], gpus=4)
    assert accumulating.memory["gradients"] == whole.memory["gradients"]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_tables_of_the_recipes_say_what_the_program_says(path):
    report = dry_run(path, path.stem.partition("_")[0], gpus=8)
    assert f"| `{path.name}` {report.row()}" in (path.parent / "README.md").read_text()
    assert sum(report.memory.values()) < 80


def test_published_sizes():
    sizes = {path.stem: dry_run(path, "generator").parts for path in PUBLISHED if "generator" in path.stem}
    var = {"d16": 310e6, "d20": 600e6, "d24": 1.0e9, "d30": 2.0e9}
    for name, size in var.items():
        assert sizes[f"generator_{name}"]["transformer"] == pytest.approx(size, rel=0.035)
    assert sum(sizes["generator_1024"].values()) == pytest.approx(732.6e6, rel=1e-4)
    assert sizes["generator_1024"]["residual head"] == pytest.approx(36.6e6, rel=1e-3)


def test_a_recipe_too_large_for_its_gpus_is_told(tmp_path, capsys):
    recipe = str(recipe_of_a_step(tmp_path))
    command = ["train", "generator", recipe, "--dry-run", "--gpus", "8", "--gpu-memory"]
    assert main([*command, "1"]) == 0
    assert re.search(r"^memory .* GiB per GPU$", capsys.readouterr().out, re.MULTILINE)
    assert main([*command, "0.01"]) == 1
    shown = capsys.readouterr()
    assert "GiB per GPU but there are 0.01" in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "g").exists()
