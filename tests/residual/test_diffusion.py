import pytest
import torch

from openhart.errors import UserError
from openhart.residual.diffusion import diffusion_loss
from openhart.residual.heads import ResidualHeadOutput, StepConditions, TokenResidualHead, WideResidualHead
from openhart.residual.schedule import cosine_schedule, respace
from openhart.residual.solvers import ROWS, SOLVERS, solve
from tests.tiny import tiny_head

SIZE = (3, 4)
SCHEDULE = cosine_schedule()


class Oracle:
    """Knows the target, so it always names the noise that is really there."""

    limit = 1.0
    clamp = True

    def __init__(self, target):
        self.target = target

    def embed_condition(self, condition):
        return condition

    def at_steps(self, embedded, timesteps):
        return StepConditions(embedded.expand(len(timesteps), *embedded.shape))

    def __call__(self, x, t, embedded, size, conditions=None):
        alpha_bar = SCHEDULE.alpha_bars.float()[t][..., None]
        noise = (x - alpha_bar.sqrt() * self.target) / (1 - alpha_bar).sqrt()
        return ResidualHeadOutput(torch.cat([noise, -torch.ones_like(noise)], dim=-1))


class GaussianOracle:
    """The best guess of noise in a value that was drawn from a normal distribution."""

    limit = 1.0
    clamp = True

    def __init__(self, deviation, mean=0.0):
        self.deviation, self.mean = deviation, mean

    def embed_condition(self, condition):
        return condition

    def at_steps(self, embedded, timesteps):
        return StepConditions(embedded.expand(len(timesteps), *embedded.shape))

    def __call__(self, x, t, embedded, size, conditions=None):
        alpha_bar = SCHEDULE.alpha_bars.float()[t][..., None]
        share = (1 - alpha_bar) / (alpha_bar * self.deviation**2 + 1 - alpha_bar)
        noise = (x - alpha_bar.sqrt() * self.mean) * share / (1 - alpha_bar).sqrt()
        return ResidualHeadOutput(torch.cat([noise, -torch.ones_like(noise)], dim=-1))


def test_the_fast_solver_follows_the_exact_path_of_a_normal_distribution():
    noise = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    exact, errors = 0.2 * noise, []
    for steps in (4, 8, 24):
        schedule = SOLVERS["dpm++"].respace(SCHEDULE, steps)
        given = (GaussianOracle(0.2), torch.zeros(2, 12, 4), None, 0.0, noise)
        found = solve(*given, lambda: pytest.fail("it drew noise"), schedule, SIZE)
        errors.append((found - exact).abs().max().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_the_mean_of_a_normal_distribution_is_found_whatever_the_noise():
    mean = torch.linspace(-0.5, 0.5, 8)
    solver = SOLVERS["mean"]
    given = (GaussianOracle(0.2, mean), torch.zeros(2, 12, 4), None, 0.0)
    found = [
        solver.sample(*given, torch.randn(2, 12, 8), None, solver.respace(SCHEDULE, steps), SIZE)
        for steps in (8, 8, 24)
    ]
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], mean.expand(2, 12, 8), atol=0.02, rtol=0)


@pytest.mark.parametrize("limit", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_residuals_end_where_the_head_says(limit, solver):
    oracle, target = Oracle(torch.linspace(-6, 6, 96).view(1, 12, 8)), torch.linspace(-6, 6, 96)
    oracle.limit = limit
    noise = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0))
    found = solver.sample(
        oracle, torch.zeros(1, 12, 4), None, 0.0, noise, lambda: noise, solver.respace(SCHEDULE, 8), SIZE
    )
    torch.testing.assert_close(found.flatten(), target.clamp(-limit, limit), atol=5e-3, rtol=0)


def test_units_of_a_channel():
    scales = [0.1 * (channel + 1) for channel in range(8)]
    head, residual = tiny_head(residual_scale=scales), torch.randn(2, 12, 8)
    torch.testing.assert_close(head.to_units(residual), residual / torch.tensor(scales))
    torch.testing.assert_close(head.from_units(head.to_units(residual)), residual)
    for wrong in ([0.1] * 7, [0.1] * 7 + [0.0]):
        with pytest.raises(UserError, match="residual_scale"):
            tiny_head(residual_scale=wrong)


def test_repeats_are_a_larger_batch():
    head = tiny_head()
    target, condition = torch.randn(2, 12, 8).clamp(-1, 1), torch.randn(2, 12, 32)
    t, noise = torch.randint(1000, (6, 12)), torch.randn(6, 12, 8)
    together = diffusion_loss(head, target, condition, t, noise, SCHEDULE, SIZE)
    apart = [
        diffusion_loss(head, target, condition, t[rows], noise[rows], SCHEDULE, SIZE)
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    for whole, parts in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 8, 50])
def test_the_samplers_find_what_an_oracle_knows(steps, solver):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 12, 8, generator=generator) * 1.8 - 0.9
    found = solver.sample(
        Oracle(target),
        torch.zeros(2, 12, 4),
        None,
        0.0,
        torch.randn(2, 12, 8, generator=generator),
        lambda: torch.randn(2, 12, 8, generator=generator),
        solver.respace(SCHEDULE, steps),
        SIZE,
    )
    torch.testing.assert_close(found, target, atol=5e-3, rtol=0)


def test_an_oracle_has_no_noise_error():
    target, noise = torch.randn(2, 2, 12, 8).clamp(-1, 1)
    t = torch.randint(1, 900, (2, 12))
    error, bound = diffusion_loss(Oracle(target), target, torch.zeros(2, 12, 4), t, noise, SCHEDULE, SIZE)
    assert error.max() < 1e-5
    assert bound.abs().max() < 1e-2  # the true mean, with the posterior's own variance


def test_respacing_keeps_the_noise_levels():
    spaced = respace(SCHEDULE, 8)
    torch.testing.assert_close(spaced.alpha_bars, SCHEDULE.alpha_bars[spaced.timesteps])
    assert spaced.timesteps[0] == 0
    assert spaced.timesteps[-1] == 999


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_steps_are_told(steps):
    with pytest.raises(UserError, match="residual steps"):
        respace(SCHEDULE, steps)


def changed_tokens(head):
    """Which outputs change when one token's input does."""
    x, cond = torch.randn(1, 12, 8), torch.randn(1, 12, 32)
    other = x.clone()
    other[:, 5] += 1
    t = torch.full((1, 1), 300)
    with torch.no_grad():
        before, after = (head(part, t, head.embed_condition(cond), SIZE).prediction for part in (x, other))
    return ((before - after).abs().amax(dim=-1) > 1e-6)[0].nonzero().flatten().tolist()


def test_the_token_head_sees_one_token_and_the_wide_one_its_neighbours():
    assert changed_tokens(tiny_head()) == [5]
    assert len(changed_tokens(tiny_head(WideResidualHead, depth=1))) > 5


class StepByStep:
    """A head that computes its conditions anew at each step."""

    def __init__(self, head):
        self.head, self.limit, self.clamp = head, head.limit, head.clamp
        self.embed_condition, self.at_steps = head.embed_condition, head.at_steps

    def __call__(self, x, t, embedded, size, conditions):
        return self.head(x, t, embedded, size)


@torch.no_grad()
@pytest.mark.parametrize("kind", [TokenResidualHead, WideResidualHead])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("solver", ["ddpm", "dpm++"])
def test_conditions_of_many_steps_at_once_give_what_each_step_gives(kind, guided, solver):
    head, (batch, steps) = tiny_head(kind), (2, 25)
    assert 1 < ROWS // (batch * 12 * (1 + guided)) < steps, "several steps at once, and several times"
    schedule = SOLVERS[solver].respace(SCHEDULE, steps)
    found = []
    for each in (head, StepByStep(head)):
        generator = torch.Generator().manual_seed(0)
        condition, empty = torch.randn(2, batch, 12, 32, generator=generator)
        noise = torch.randn(batch, 12, 8, generator=generator)
        given = (each, condition, empty if guided else None, 2.0, noise)
        draw = lambda g=generator: torch.randn(batch, 12, 8, generator=g)  # noqa: E731
        found.append(SOLVERS[solver].sample(*given, draw, schedule, SIZE))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_the_wide_head_starts_as_the_token_head():
    torch.manual_seed(0)
    token = TokenResidualHead(code_dim=8, condition_dim=32, width=24, depth=2)
    wide = WideResidualHead(code_dim=8, condition_dim=32, width=24, depth=2)
    missing, unexpected = wide.load_state_dict(token.state_dict(), strict=False)
    assert not unexpected
    assert all("neighbours" in name for name in missing)
    for head in (token, wide):  # the output starts at zero: open it to compare what comes before
        torch.nn.init.constant_(head.output.weight, 0.1)
    arguments = (torch.randn(1, 12, 8), torch.full((1, 1), 300), torch.randn(1, 12, 24), SIZE)
    torch.testing.assert_close(wide(*arguments).prediction, token(*arguments).prediction)


def test_the_wide_head_wants_the_whole_map():
    with pytest.raises(UserError, match="all 12 tokens"):
        tiny_head(WideResidualHead)(
            torch.randn(1, 7, 8), torch.zeros(1, 1).long(), torch.randn(1, 7, 24), SIZE
        )


def test_respaced_steps_are_sums_of_the_distance_as_in_the_reference_programs():
    """At ties another arithmetic rounds to another step; linspace does so for 282 of all counts."""
    others = 0
    for steps in range(2, 1001):
        spaced = torch.linspace(0, 999, steps, dtype=torch.float64).round().long().tolist()
        kept = respace(SCHEDULE, steps).timesteps.tolist()
        assert (kept[0], kept[-1], len(set(kept))) == (0, 999, steps)
        others += kept != spaced
    assert others == 282
    assert respace(SCHEDULE, 8).timesteps.tolist() == [0, 143, 285, 428, 571, 714, 856, 999]


def test_a_head_that_does_not_clamp_keeps_values_beyond_its_limit():
    oracle, target = Oracle(torch.linspace(-6, 6, 96).view(1, 12, 8)), torch.linspace(-6, 6, 96)
    oracle.clamp = False
    noise = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0))
    for solver in SOLVERS.values():
        schedule = solver.respace(SCHEDULE, 20)
        found = solver.sample(
            oracle, torch.zeros(1, 12, 4), None, 0.0, noise, lambda: noise, schedule, SIZE
        ).flatten()
        torch.testing.assert_close(found, target, atol=2e-2, rtol=0)
