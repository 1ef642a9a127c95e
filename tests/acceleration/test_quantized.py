"""Weights in eight bits: a quarter of the memory, nearly the same scores."""

import sys

import pytest
import torch

from openhart.acceleration.quantized import quantize_weights
from openhart.cli import main
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from tests.tiny import random_context, shaken, tiny_transformer

pytest.importorskip("torchao")


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_scores_change_little(kind):
    transformer = shaken(tiny_transformer(width=64, num_heads=2)).to(torch.bfloat16)
    inputs, (context, mask) = torch.randn(2, 29, 8), random_context(2)

    def scores():
        with torch.no_grad():
            hidden = transformer(inputs, context, mask).hidden_states
            return transformer.logits(hidden, transformer.prepare(context, mask))

    before = scores()
    quantize_weights(transformer, kind)
    error = (scores() - before).norm() / before.norm()
    assert 0 < error < 0.1


def test_a_quantized_model_makes_pictures(text_model, tmp_path):
    command = ["generate", "a ball", "--seed", "0", "--quiet", "--model", str(text_model)]
    assert main([*command, "-o", str(tmp_path / "a.png"), "--dtype", "bfloat16", "--weights", "int8"]) == 0
    assert (tmp_path / "a.png").is_file()


def test_what_does_not_go_together_is_reported(text_model, capsys):
    assert main(["generate", "a ball", "--optimize", "exact", "--weights", "int8"]) == 2
    assert "not both" in capsys.readouterr().err
    pipeline = HartPipeline.from_pretrained(text_model)
    with pytest.raises(UserError, match="int8 or fp8"):
        pipeline.quantize("int3")
    with pytest.raises(UserError, match="cannot be optimized"):
        pipeline.quantize("int8").optimize()
    with pytest.raises(UserError, match="cannot be quantized"):
        HartPipeline.from_pretrained(text_model).optimize().quantize()


def test_torchao_missing_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match=r"openhart\[quantize\]"):
        quantize_weights(tiny_transformer(), "int8")
