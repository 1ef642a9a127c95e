"""The models under the tools of diffusers: casting, offloading, quantization, compilation, saving."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from openhart.conditioning.label import LabelEncoder
from openhart.residual.heads import WideResidualHead
from openhart.tokenizer.model import HybridTokenizer
from tests.tiny import (
    random_context,
    shaken,
    tiny_head,
    tiny_kl,
    tiny_masked_transformer,
    tiny_raster,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan_tokenizer,
)

CPU = torch.device("cpu")
VAR = {
    "norm": "layer",
    "mlp": "gelu",
    "positions": "learned",
    "levels": "learned",
    "modulation": "per_block",
    "normalize_attention": True,
    "value_residual": True,
}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def context_inputs():
    context, mask = random_context(2)
    return {"scale_inputs": random(2, 29, 8), "context": context, "mask": mask}


def head_inputs():
    return {
        "x": random(2, 12, 8),
        "t": torch.full((2, 1), 300),
        "embedded": random(2, 12, 24),
        "size": (3, 4),
    }


def image_inputs():
    return {"image": random(2, 3, 32, 32).clamp(-1, 1), "discrete": True}


def raster_inputs():
    return {"codes": torch.arange(30).view(2, 15), "context": random(2, 1, 32)}


def label_inputs():
    return {"labels": torch.tensor([1, 5])}


def masked_inputs():
    return {
        "tokens": random(2, 24, 4),
        "known": torch.arange(9).repeat(2, 1),
        "context": random(2, 1, 32),
        "context_mask": torch.ones(2, 1, dtype=torch.bool),
        "wanted": torch.arange(9, 14).repeat(2, 1),
    }


def continuous_inputs():
    return {"image": random(2, 3, 32, 32).clamp(-1, 1)}


CASES = {
    "mar": (tiny_masked_transformer, masked_inputs),
    "continuous tokenizer": (lambda: shaken(tiny_kl()), continuous_inputs),
    "hart": (tiny_transformer, context_inputs),
    "var": (lambda: tiny_transformer(**VAR), context_inputs),
    "head": (tiny_head, head_inputs),
    "wide head": (lambda: tiny_head(WideResidualHead), head_inputs),
    "tokenizer": (lambda: shaken(tiny_tokenizer()), image_inputs),
    "raster": (tiny_raster, raster_inputs),
    "vqgan": (tiny_vqgan_tokenizer, lambda: image_inputs() | {"discrete": False}),
    "labels": (lambda: shaken(LabelEncoder(num_classes=5, dim=32)), label_inputs),
}


@pytest.fixture(params=CASES)
def case(request):
    build, inputs = CASES[request.param]
    return build(), inputs()


@pytest.fixture(params=["hart", "var", "mar", "raster", "head", "wide head"])
def linear_case(request):
    build, inputs = CASES[request.param]
    return build(), inputs()


@torch.no_grad()
def result(model, inputs):
    return model(**inputs, return_dict=False)[0]


@torch.no_grad()
def one_image(model):
    """Logits of every scale through the cache, and the residual's condition."""
    context, mask = random_context(2)
    cache = model.allocate_cache(2, device=CPU)
    output = model(None, context, mask, cache=cache)
    found = [output.logits]
    for index, side in enumerate((2, 3, 4), start=1):
        given = output.prepared.at_scale(index, 2)
        step = model(random(2, side * side, 8), cache=cache, scale_context=given)
        found.append(step.logits)
    found.append(model.residual_condition(step.hidden_states, random(2, 16, 8)))
    return torch.cat([part.flatten() for part in found])


def test_a_call_returns_an_output_or_a_tuple(case):
    model, inputs = case
    with torch.no_grad():
        output = model(**inputs)
    expected = model(**inputs, return_dict=False)
    assert isinstance(expected, tuple)
    for found, wanted in zip(output.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_weights_stored_in_eight_bits_compute_in_float32(case):
    model, inputs = case
    plain = result(model, inputs)
    before = model.get_memory_footprint()
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    found = result(model, inputs)
    assert model.get_memory_footprint() < before
    assert model.dtype == found.dtype == torch.float32
    assert found.isfinite().all()
    if not isinstance(model, HybridTokenizer):  # other codes are nearest to rounded features
        assert (found - plain).norm() < 0.3 * plain.norm()


@pytest.mark.parametrize("settings", [{}, VAR], ids=["hart", "var"])
def test_generation_with_weights_stored_in_half(settings):
    model = tiny_transformer(**settings)
    plain = one_image(model)
    model.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    torch.testing.assert_close(one_image(model), plain, atol=2e-2, rtol=2e-2)
    assert model.allocate_cache(1).store.dtype == torch.float32


@pytest.mark.parametrize("on_disk", [False, True])
def test_weights_that_come_module_by_module(case, tmp_path, on_disk):
    model, inputs = case
    expected = result(model, inputs)
    if on_disk:
        disk_offload(model, str(tmp_path), execution_device=CPU, offload_buffers=True)
    else:
        cpu_offload(model, execution_device=CPU, offload_buffers=True)
    assert all(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(result(model, inputs), expected)


GROUPS = [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]


@pytest.mark.parametrize("group", GROUPS, ids=["leaves", "blocks"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_groups_of_weights_that_come_when_called(case, tmp_path, group, on_disk):
    model, inputs = case
    expected = result(model, inputs)
    folder = str(tmp_path) if on_disk else None
    model.enable_group_offload(CPU, offload_to_disk_path=folder, **group)
    if on_disk:
        assert list(tmp_path.glob("*.safetensors"))
    for _ in range(2):
        torch.testing.assert_close(result(model, inputs), expected)


@pytest.mark.parametrize("group", GROUPS, ids=["leaves", "blocks"])
@pytest.mark.parametrize("settings", [{}, VAR], ids=["hart", "var"])
def test_generation_from_groups_on_disk(tmp_path, group, settings):
    model = tiny_transformer(**settings)
    expected = one_image(model)
    model.enable_group_offload(CPU, offload_to_disk_path=str(tmp_path), **group)
    torch.testing.assert_close(one_image(model), expected)


@torch.no_grad()
def test_the_residual_head_embeds_its_condition_from_groups_on_disk(tmp_path):
    head, condition = tiny_head(), random(2, 12, 32)
    expected = head.embed_condition(condition)
    head.enable_group_offload(CPU, offload_to_disk_path=str(tmp_path), **GROUPS[1])
    torch.testing.assert_close(head.embed_condition(condition), expected)


def test_weights_quantized_by_quanto(linear_case, tmp_path):
    pytest.importorskip("optimum.quanto")
    from diffusers import QuantoConfig

    model, inputs = linear_case
    expected = result(model, inputs)
    model.save_pretrained(tmp_path)
    quantized = type(model).from_pretrained(tmp_path, quantization_config=QuantoConfig(weights_dtype="int8"))
    found = result(quantized, inputs)
    assert 0 < (found - expected).norm() < 0.1 * expected.norm()


def test_adapters_on_the_attention_projections():
    peft = pytest.importorskip("peft")
    model, inputs = tiny_transformer(), context_inputs()
    expected = result(model, inputs)
    model.add_adapter(peft.LoraConfig(target_modules=["qkv", "proj"], init_lora_weights=False))
    assert not torch.allclose(result(model, inputs), expected, atol=1e-3)
    model.disable_adapters()
    torch.testing.assert_close(result(model, inputs), expected)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [False, True])
def test_saved_whole_in_shards_and_under_a_variant(linear_case, tmp_path, variant, shards):
    model, inputs = linear_case
    size = "30KB" if shards else "1GB"
    model.save_pretrained(tmp_path, max_shard_size=size, variant=variant)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == shards
    loaded = type(model).from_pretrained(tmp_path, variant=variant)
    torch.testing.assert_close(result(loaded, inputs), result(model, inputs), atol=0, rtol=0)


@pytest.mark.parametrize("argument", ["torch_dtype", "dtype"])
def test_loaded_in_another_dtype(case, tmp_path, argument):
    model, _ = case
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, **{argument: torch.float16})
    assert loaded.dtype == torch.float16


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hart", "var", "head", "wide head"])
def test_the_whole_model_is_one_graph(kind, fresh_compiler):
    build, inputs = CASES[kind]
    model, inputs = build(), inputs()
    expected = result(model, inputs)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            torch.testing.assert_close(result(compiled, inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hart", "var", "head", "wide head"])
def test_blocks_are_compiled_once(kind, fresh_compiler):
    build, inputs = CASES[kind]
    model, inputs = build(), inputs()
    expected = result(model, inputs)
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(result(model, inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hart", "var", "head"])
def test_a_model_can_be_exported(kind):
    build, inputs = CASES[kind]
    model, inputs = build(), inputs()
    exported = torch.export.export(model, args=(), kwargs=inputs)
    found = exported.module()(**inputs)
    torch.testing.assert_close(next(iter(found.values())), result(model, inputs), atol=1e-5, rtol=1e-4)
