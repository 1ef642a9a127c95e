"""HART's reference program against ours, on a small released-style checkpoint."""

import pytest
import torch

from openhart.conditioning.text import empty_condition
from openhart.generation.next_scale import generate
from openhart.generation.settings import SamplingSettings
from openhart.randomness import SeededDraws
from openhart.residual.diffusion import diffusion_loss
from openhart.residual.schedule import cosine_schedule
from tests.parity.compare import assert_near, assert_same, numbered, outputs_of


def last_map(tokens, size):
    return tokens.transpose(1, 2).unflatten(2, size)


def test_features_and_codes(hart, recorded):
    case, tokenizer = recorded["hart tokenizer"], hart.image_tokenizer
    features = tokenizer.encode(case["image"])
    assert_near(features, case["features"])
    quantized = tokenizer.quantize(features)
    for ours, theirs in zip(quantized.codes, numbered(case, "indices"), strict=True):
        assert_same(ours, theirs)
    assert_same(quantized.codes[-1], case["last_scale_indices"])
    for ours, theirs in zip(quantized.f_hats, numbered(case, "f_hat"), strict=True):
        assert_near(ours, theirs)
    target = last_map(case["last_scale_target"], tokenizer.quantizer.size)
    assert_near(quantized.continuous_target, target)


def test_transformer_input(hart, recorded):
    case = recorded["hart tokenizer"]
    inputs = hart.image_tokenizer.quantizer.code_inputs(numbered(case, "indices"))
    assert_near(inputs, case["transformer_input"])


def test_images(hart, recorded):
    case, tokenizer = recorded["hart tokenizer"], hart.image_tokenizer
    assert_near(tokenizer.decode_codes(numbered(case, "indices")), case["image_from_discrete"])
    assert_near(tokenizer.decode(case["features"]), case["image_from_continuous"])


@pytest.fixture
def teacher_forced(hart, recorded):
    case = recorded["hart training"]
    context, mask = case["context"], case["context_mask"]
    keep = ~case["last_scale_masked"]
    hidden = hart.transformer(case["transformer_input"], context, mask, keep).hidden_states
    return case, keep, hidden


def test_teacher_forced_logits(hart, teacher_forced):
    case, _, hidden = teacher_forced
    prepared = hart.transformer.prepare(case["context"], case["context_mask"])
    assert_near(hart.transformer.logits(hidden, prepared), case["logits"])


def test_residual_condition_and_target(hart, teacher_forced):
    case, keep, hidden = teacher_forced
    embedding = hart.image_tokenizer.quantizer.lookup(case["sampled_last_indices"])
    condition = hart.transformer.residual_condition(hidden[:, -embedding.shape[1] :], embedding)
    repeats = len(case["diffusion_condition"]) // condition.flatten(0, 1).shape[0]
    assert_near(condition.flatten(0, 1).repeat(repeats, 1), case["diffusion_condition"])
    kept = case["last_scale_target"][keep].unflatten(0, (len(keep), -1))
    target = (kept - embedding) / hart.residual_head.config.residual_scale
    assert_near(target.flatten(0, 1).repeat(repeats, 1), case["diffusion_target"])


def test_diffusion_loss(hart, recorded):
    case = recorded["hart training"]
    error, bound = diffusion_loss(
        hart.residual_head,
        case["diffusion_target"][None],
        case["diffusion_condition"][None],
        case["diffusion_t"][None],
        case["diffusion_noise"][None],
        cosine_schedule(),
        hart.image_tokenizer.quantizer.size,
    )
    assert_near(error[0], case["diffusion_mse"])
    assert_near(bound[0], case["diffusion_vb"])
    assert_near((error + bound).mean(), case["diffusion_loss"])


class RecordedDraws(SeededDraws):
    """Greedy codes, and the noise that the reference program drew."""

    def __init__(self, batch, noise):
        super().__init__([torch.Generator() for _ in range(batch)])
        self.noise = iter(noise)

    def normal(self, shape):
        return next(self.noise)


def test_sampling(hart, recorded):
    case, quantizer = recorded["hart sampling"], hart.image_tokenizer.quantizer
    batch = len(case["context"])
    steps = case["residual_step_noise"]
    noise = [case["residual_initial_noise"], *(step.chunk(2)[0] for step in steps)]
    drawn = (each.unflatten(0, (batch, -1)) for each in noise)
    settings = SamplingSettings(
        guidance_scale=case["guidance"].item() + 1, top_k=1, residual_steps=len(steps)
    )
    model = hart.transformer
    with outputs_of(model.head) as logits, outputs_of(model.residual_norm) as conditions:
        states = list(
            generate(
                model,
                quantizer,
                hart.residual_head,
                (case["context"], case["context_mask"]),
                empty_condition(1, 1, case["context"].shape[2]),
                RecordedDraws(batch, drawn),
                settings,
            )
        )
    for ours, theirs in zip(logits, numbered(case, "logits"), strict=True):
        assert_near(ours, theirs[: len(ours)])  # the first scale has no guidance: half is not computed
    assert len(logits[1]) == 2 * batch
    for state, theirs in zip(states, numbered(case, "indices"), strict=True):
        assert_same(state.codes, theirs)
    for state, theirs in zip(states, numbered(case, "f_hat"), strict=False):
        assert_near(state.f_hat, theirs)
    assert_near(conditions[0].flatten(0, 1), case["residual_condition"])
    assert_near(states[-1].residual.flatten(0, 1), case["residual"].chunk(2)[0])
    assert_near(states[-1].f_hat, case["f_hat_final"])
    image = hart.image_tokenizer.decode(states[-1].f_hat) / 2 + 0.5
    assert_near(image, case["image"])
