"""Generation calls modules as modules, so that compilation, hooks and autocast take hold of them."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload

CPU = torch.device("cpu")


def picture(pipeline, **call):
    call |= {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    if pipeline.label_encoder is not None:
        return pipeline(class_labels=[1, 2], **call).images
    return pipeline("a red apple", **call).images


@pytest.fixture(params=["text_pipeline", "label_pipeline"])
def plain(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def spare(plain):
    parts = {name: copy.deepcopy(part) for name, part in plain.components.items() if part is not None}
    pipeline = type(plain)(**parts, max_tokens=plain.config.max_tokens, sampling=plain.config.sampling)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plain", "in_place"), [("text_pipeline", False), ("label_pipeline", True)], indirect=["plain"]
)
def test_compiling_takes_effect(plain, spare, in_place):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    if in_place:
        spare.transformer.compile(backend=backend)
    else:
        spare.transformer = torch.compile(spare.transformer, backend=backend)
    torch.testing.assert_close(picture(spare), picture(plain), atol=1e-5, rtol=0)
    compiled = len(graphs)
    assert compiled
    picture(spare)
    assert len(graphs) == compiled


@pytest.mark.parametrize("call", [{}, {"gumbel_smoothing": True, "last_scale_steps": 2}], ids=str)
def test_weights_on_disk_give_the_same_picture(plain, spare, tmp_path, call):
    for name in ("transformer", "image_tokenizer", "residual_head", "label_encoder"):
        if (part := getattr(spare, name)) is not None:
            disk_offload(part, str(tmp_path / name), execution_device=CPU, offload_buffers=True)
    torch.testing.assert_close(picture(spare, **call), picture(plain, **call), atol=1e-5, rtol=0)


def test_weights_that_wait_in_memory_give_the_same_picture(plain, spare):
    for part in (spare.transformer, spare.image_tokenizer):
        cpu_offload(part, execution_device=CPU)
    torch.testing.assert_close(picture(spare), picture(plain), atol=1e-5, rtol=0)


def test_a_model_that_comes_when_it_is_called(plain, spare):
    spare.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(picture(spare), picture(plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize("call", [{}, {"gumbel_smoothing": True, "last_scale_steps": 2}], ids=str)
def test_autocast(spare, call):
    with torch.autocast("cpu", torch.bfloat16):
        assert picture(spare, **call).isfinite().all()
