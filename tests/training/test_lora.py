"""Adapters learn, nothing else moves, and a pipeline takes them up and lays them down."""

import pytest
import torch
import yaml

from openhart.cli import main
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.training.generator import train as generator
from tests.training.corpus import generator_recipe, logged, write_recipe
from tests.training.test_runs import corpus, trained_tokenizer

pytestmark = pytest.mark.slow

pytest.importorskip("peft")
__all__ = ["corpus", "trained_tokenizer"]


@pytest.fixture(scope="module")
def base(corpus, trained_tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("base")
    values = generator_recipe(corpus, output, trained_tokenizer[0], steps=4, sample_prompts=[])
    return generator.train(write_recipe(output / "recipe.yaml", values), quiet=True)


def lora_recipe(corpus, output, tokenizer, base, steps=30, **lora):
    values = generator_recipe(corpus, output, tokenizer, steps, sample_prompts=["a red circle"])
    lora = {"rank": 4, "alpha": 8, "targets": ["qkv", "proj", "gate", "up", "down", "head"], **lora}
    values |= {"initial": str(base), "model": {}, "residual": None, "lora": lora}
    values["run"]["sample_every"] = 30
    values["optimizer"]["learning_rate"] = 1e-2
    return write_recipe(output / "recipe.yaml", values)


@pytest.fixture(scope="module")
def adapter(corpus, trained_tokenizer, base, tmp_path_factory):
    output = tmp_path_factory.mktemp("lora")
    recipe = lora_recipe(corpus, output, trained_tokenizer[0], base)
    return generator.train(recipe, quiet=True), output


def picture(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    return pipeline("a red circle", generator=seed, use_residual=False, output_type="pt").images


def test_an_adapter_learns_and_is_small(adapter, base):
    folder, output = adapter
    losses = logged(output, "cross_entropy")
    assert losses[-1] < 0.8 * losses[0]
    assert {path.name for path in folder.iterdir()} == {"pytorch_lora_weights.safetensors", "checksums.json"}
    whole = (base / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (folder / "pytorch_lora_weights.safetensors").stat().st_size < whole / 3


def test_a_pipeline_takes_an_adapter_up_and_lays_it_down(adapter, base):
    pipeline = HartPipeline.from_pretrained(base)
    before = picture(pipeline)
    pipeline.load_lora_weights(adapter[0])
    assert not torch.equal(picture(pipeline), before)
    pipeline.unload_lora_weights()
    assert torch.equal(picture(pipeline), before)


@torch.no_grad()
@pytest.mark.parametrize("target", ["qkv", "proj", "gate", "up", "down"])
def test_every_default_target_changes_what_the_transformer_says(target):
    from openhart.lora import add_lora
    from tests.tiny import random_context, tiny_transformer

    transformer = tiny_transformer()
    context, mask = random_context(2)
    x = torch.randn(2, 29, 8)
    before = transformer(x, context, mask).hidden_states
    add_lora(transformer, 16, 16.0, [target])
    assert torch.equal(transformer(x, context, mask).hidden_states, before)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.normal_()
    assert not torch.allclose(transformer(x, context, mask).hidden_states, before)


def test_an_optimized_pipeline_keeps_its_adapter(adapter, base):
    plain, faster = HartPipeline.from_pretrained(base), HartPipeline.from_pretrained(base)
    for pipeline in (plain, faster):
        pipeline.load_lora_weights(adapter[0])
    faster.optimize("exact")
    torch.testing.assert_close(picture(faster), picture(plain), atol=1e-4, rtol=0)


def test_the_command_line_generates_with_an_adapter(adapter, base, tmp_path, capsys):
    out = tmp_path / "a.png"
    command = ["generate", "a red circle", "--model", str(base), "--seed", "0", "--quiet", "-o", str(out)]
    assert main([*command, "--lora", str(adapter[0])]) == 0
    assert out.is_file()
    assert main([*command, "--lora", str(tmp_path)]) == 1
    assert "no LoRA in" in capsys.readouterr().err


def test_an_adapter_for_another_model_is_told(adapter, text_pipeline):
    with pytest.raises(UserError, match="cannot load the model"):
        text_pipeline.load_lora_weights(adapter[0])


def test_a_target_that_is_not_there_is_told(corpus, trained_tokenizer, base, tmp_path):
    output = tmp_path / "out"
    values = yaml.safe_load(lora_recipe(corpus, tmp_path, trained_tokenizer[0], base).read_text())
    values["run"]["output"] = str(output)
    values["lora"]["targets"] = ["qvk"]
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    with pytest.raises(UserError, match="no module qvk"):
        generator.train(recipe, quiet=True)
    assert not output.exists()
