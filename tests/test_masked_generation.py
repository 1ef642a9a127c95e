"""MAR's loop: which tokens a step predicts, and what an image depends on."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openhart.errors import UserError
from openhart.generation.masked import generate_masked, plan_steps
from openhart.generation.masked_settings import MaskedSamplingOptions, MaskedSamplingSettings
from openhart.randomness import SeededDraws
from tests.tiny import tiny_head, tiny_masked_transformer

QUICK = {"num_inference_steps": 4, "diffusion_steps": 5}


@pytest.fixture(scope="module")
def parts():
    return tiny_masked_transformer(), tiny_head(code_dim=4, residual_scale=1.0, limit=4.0)


def run(parts, rows, **values):
    """Generate samples of a fixed context, seeds following the rows."""
    contexts = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 1, dtype=torch.bool)
    draws = SeededDraws([torch.Generator().manual_seed(row) for row in rows])
    settings = MaskedSamplingSettings(**{**QUICK, **values})
    given = (contexts[rows], mask[rows]), (contexts[3:], mask[3:])
    return list(generate_masked(*parts, *given, draws, settings))


@given(
    tokens=st.integers(1, 300),
    count=st.integers(1, 400),
    scale=st.floats(0, 10),
    schedule=st.sampled_from(["linear", "constant"]),
)
def test_steps_predict_every_token_once(tokens, count, scale, schedule):
    settings = MaskedSamplingSettings(
        guidance_scale=scale, guidance_schedule=schedule, num_inference_steps=count
    )
    steps = plan_steps(tokens, settings)
    assert steps[0].stop == tokens
    assert steps[-1].start == 0
    assert all(step.start < step.stop for step in steps)
    assert all(after.stop == before.start for before, after in pairwise(steps))
    assert len(steps) == min(count, tokens)
    scales = [step.guidance_scale for step in steps]
    assert scales == sorted(scales)
    assert all(1 <= found <= max(scale, 1) for found in scales)
    if schedule == "constant":
        assert set(scales) == {max(scale, 1)}


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"guidance_scale": 1.0},
        {"guidance_schedule": "constant", "temperature": 0.7},
        {"num_inference_steps": 24},
        {"diffusion_solver": "dpm++"},
        {"diffusion_solver": "mean"},
    ],
    ids=str,
)
def test_an_image_does_not_depend_on_its_batch(parts, way):
    together, alone = run(parts, [0, 1, 2], **way), run(parts, [1], **way)
    for state, single in zip(together, alone, strict=True):
        assert torch.equal(state.unknown[1:2], single.unknown)
        torch.testing.assert_close(state.features[1:2], single.features, atol=1e-4, rtol=0)
    assert not torch.allclose(together[-1].features[0], together[-1].features[1], atol=1e-2)


def test_known_tokens_stay_and_unknown_ones_are_zero(parts):
    transformer = parts[0]
    states = run(parts, [0, 1], num_inference_steps=6)
    for before, after in pairwise(states):
        old, new = transformer.patchify(before.features), transformer.patchify(after.features)
        assert torch.equal(old[~before.unknown], new[~before.unknown])
        assert not (after.unknown & ~before.unknown).any()
        assert not new[after.unknown].any()
    assert not states[-1].unknown.any()


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_guidance_of_1_computes_one_half_and_gives_the_unguided_image(parts, schedule):
    batches = []
    hook = parts[0].register_forward_hook(lambda _module, given, _output: batches.append(len(given[0])))
    images = [
        run(parts, [0, 1], guidance_scale=scale, guidance_schedule=schedule)[-1].features
        for scale in (1.0, 0.0, 1.000001)
    ]
    hook.remove()
    assert batches == [2] * 8 + [4] * 4
    assert torch.equal(images[0], images[1])
    torch.testing.assert_close(images[2], images[0], atol=1e-4, rtol=0)


def test_guidance_away_from_the_condition_itself_changes_nothing(parts):
    """cond + w · (cond − cond): every image has the context that is guided away from."""
    guided, plain = run(parts, [3], guidance_scale=7.0), run(parts, [3], guidance_scale=1.0)
    torch.testing.assert_close(guided[-1].features, plain[-1].features, atol=1e-4, rtol=0)


class SameFirstNoise(SeededDraws):
    """Its first noise is zero, and all that follows has the seed."""

    drawn = False

    def normal(self, shape):
        noise = super().normal(shape)
        first, self.drawn = not self.drawn, True
        return torch.zeros_like(noise) if first else noise


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_temperature_scales_the_noise_of_the_diffusion_steps_and_not_the_first(parts, temperature):
    context, mask = torch.zeros(1, 1, 32), torch.ones(1, 1, dtype=torch.bool)
    settings = MaskedSamplingSettings(num_inference_steps=1, diffusion_steps=4, temperature=temperature)
    images = []
    for seed in (0, 1):
        draws = SameFirstNoise([torch.Generator().manual_seed(seed)])
        images.append(list(generate_masked(*parts, (context, mask), (context, mask), draws, settings)))
    assert torch.allclose(images[0][-1].features, images[1][-1].features, atol=1e-4) == (temperature == 0)


def test_options_are_the_settings():
    assert set(MaskedSamplingOptions.__annotations__) == set(MaskedSamplingSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"diffusion_steps": 1}, "diffusion_steps must be between 2 and 1000"),
        ({"num_inference_steps": 0}, "num_inference_steps must be between 1 and"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule must be one of linear or constant"),
        ({"temperature": "hot"}, "temperature must be a number"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(UserError, match=message):
        MaskedSamplingSettings(**values)
