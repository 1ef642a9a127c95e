"""Adapters under diffusers' names: loaded, weighed, fused, removed and saved."""

import pytest
import torch

from openhart import HartPipeline
from openhart.errors import UserError
from openhart.lora import add_lora, save_lora
from tests.conftest import TOKENS
from tests.tiny import tiny_head, tiny_tokenizer, tiny_transformer

pytest.importorskip("peft")


def tiny_pipeline():
    transformer = tiny_transformer(context_dim=384, context_tokens=TOKENS)
    pipeline = HartPipeline(tiny_tokenizer(), transformer, tiny_head())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def features(pipeline):
    seed = torch.Generator().manual_seed(0)
    return pipeline("", generator=seed, output_type="latent", top_k=1, use_residual=False).images


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder as a training run leaves it: names without the prefix that diffusers writes."""
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    transformer = tiny_pipeline().transformer
    add_lora(transformer, 4, 8.0, ["qkv", "up", "down"])
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    save_lora(transformer, folder)
    return folder


def test_adapters_are_weighed_and_removed(adapter):
    pipeline = tiny_pipeline()
    before = features(pipeline)
    pipeline.load_lora_weights(adapter, adapter_name="style")
    assert pipeline.get_active_adapters() == ["style"]
    assert pipeline.get_list_adapters() == {"transformer": ["style"]}
    adapted = features(pipeline)
    assert not torch.allclose(adapted, before)
    pipeline.set_adapters("style", 0.0)
    torch.testing.assert_close(features(pipeline), before)
    pipeline.load_lora_weights(adapter, adapter_name="again")
    pipeline.set_adapters(["style", "again"], [0.5, 0.5])
    torch.testing.assert_close(features(pipeline), adapted, atol=1e-4, rtol=0)
    pipeline.disable_lora()
    torch.testing.assert_close(features(pipeline), before)
    pipeline.unload_lora_weights()
    assert pipeline.get_list_adapters() == {}
    assert torch.equal(features(pipeline), before)


def test_fused_adapters_become_weights_and_can_be_taken_out(adapter):
    pipeline = tiny_pipeline()
    before = features(pipeline)
    pipeline.load_lora_weights(adapter)
    adapted = features(pipeline)
    pipeline.fuse_lora()
    torch.testing.assert_close(features(pipeline), adapted, atol=1e-4, rtol=0)
    pipeline.unfuse_lora()
    pipeline.disable_lora()
    torch.testing.assert_close(features(pipeline), before, atol=1e-4, rtol=0)
    pipeline.enable_lora()
    pipeline.fuse_lora(lora_scale=0.5)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(features(pipeline), before, atol=1e-4, rtol=0)


def test_adapters_saved_under_diffusers_names_load_again(adapter, tmp_path):
    from peft.utils import get_peft_model_state_dict

    pipeline = tiny_pipeline()
    pipeline.load_lora_weights(adapter)
    adapted = features(pipeline)
    tensors = get_peft_model_state_dict(pipeline.transformer, adapter_name="default_0")
    settings = pipeline.transformer.peft_config["default_0"].to_dict()
    HartPipeline.save_lora_weights(tmp_path, tensors, transformer_lora_adapter_metadata=settings)
    other = tiny_pipeline()
    other.load_lora_weights(tmp_path)
    assert torch.equal(features(other), adapted)
    third = tiny_pipeline()
    third.load_lora_weights({f"transformer.{name}": tensor for name, tensor in tensors.items()})
    third.set_adapters("default_0", 2.0)  # alpha / rank is 2, which bare tensors do not say
    torch.testing.assert_close(features(third), adapted, atol=1e-4, rtol=0)


def test_mistakes(adapter, tmp_path):
    pipeline = tiny_pipeline()
    with pytest.raises(UserError, match="no LoRA in"):
        pipeline.load_lora_weights(tmp_path)
    with pytest.raises(UserError, match="no LoRA in"):
        pipeline.load_lora_weights(tmp_path / "nowhere")
    pipeline.load_lora_weights(adapter, adapter_name="style")
    with pytest.raises(UserError, match="already"):
        pipeline.load_lora_weights(adapter, adapter_name="style")
    with pytest.raises(UserError, match="not in the list of present adapters"):
        pipeline.set_adapters("other")
    with pytest.raises(UserError, match="must hold the tensors"):
        HartPipeline.save_lora_weights(tmp_path, {})
    pipeline.optimize()
    with pytest.raises(UserError, match="before the pipeline is optimized"):
        pipeline.load_lora_weights(adapter)
