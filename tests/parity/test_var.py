"""VAR's reference program against ours, on a small released-style checkpoint."""

import torch

from openhart.generation.next_scale import generate
from openhart.generation.settings import SamplingSettings
from openhart.randomness import SeededDraws
from tests.parity.compare import assert_near, assert_same, numbered, outputs_of


def test_tokenizer(var, recorded):
    case, tokenizer = recorded["var training"], var.image_tokenizer
    features = tokenizer.encode(case["image"])
    assert_near(features, case["features"])
    quantized = tokenizer.quantize(features)
    for ours, theirs in zip(quantized.codes, numbered(case, "indices"), strict=True):
        assert_same(ours, theirs)
    assert_near(tokenizer.decode_codes(quantized.codes), case["reconstruction"])
    inputs = tokenizer.quantizer.code_inputs(quantized.codes)
    assert_near(inputs, case["transformer_input"])


def test_teacher_forced_logits(var, recorded):
    case = recorded["var training"]
    context, mask = var.label_encoder(case["label"], return_dict=False)
    hidden = var.transformer(case["transformer_input"], context, mask).hidden_states
    prepared = var.transformer.prepare(context, mask)
    assert_near(var.transformer.logits(hidden, prepared), case["teacher_forced_logits"])


def test_sampling(var, recorded):
    case = recorded["var sampling"]
    batch = len(case["label"])
    settings = SamplingSettings(guidance_scale=case["guidance"].item() + 1, top_k=1, hold_last_guidance=False)
    with outputs_of(var.transformer.head) as logits:
        states = list(
            generate(
                var.transformer,
                var.image_tokenizer.quantizer,
                None,
                var.label_encoder(case["label"], return_dict=False),
                var.label_encoder.empty(1),
                SeededDraws([torch.Generator() for _ in range(batch)]),
                settings,
            )
        )
    for ours, theirs in zip(logits, numbered(case, "logits"), strict=True):
        assert_near(ours, theirs[: len(ours)])  # the first scale has no guidance: half is not computed
    assert len(logits[1]) == 2 * batch
    for state, theirs in zip(states, numbered(case, "indices"), strict=True):
        assert_same(state.codes, theirs)
    assert_near(var.image_tokenizer.decode(states[-1].f_hat) / 2 + 0.5, case["image"])
