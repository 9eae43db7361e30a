"""Any unmasking rule for any masked denoiser: the law of what is drawn, by enumeration.

Every draft of every state is shown to the rule, so that the law of whole sequences is a sum over
all ways that sampling can go.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from exact_bayes import ExactBayes, all_sequences
from pipeline_cases import made, piped, seeded

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Canvas, Sampler, UnmaskingSampler, step_grid
from hf_ddistill.schedulers import SamplerScheduler
from hf_ddistill.unmasking import Draft, Unmasking

MASK, L, N = 2, 3, 2
RULES = {  # settings under which a rule decides some positions and not all
    "static": {"type": "static"},
    "margin": {"type": "static", "score": "margin"},
    "threshold": {"type": "threshold", "threshold": 0.7},
    "factor": {"type": "factor", "factor": 0.8},
    "entropy_bounded": {"type": "entropy_bounded", "gamma": 0.5},
    "entropy_threshold": {"type": "entropy_threshold", "threshold": 0.6},
    "klass": {"type": "klass", "threshold": 0.5, "bound": 0.2},
    "prophet": {"type": "prophet", "gaps": [1.0, 0.8, 0.5]},
}
DRAWS_ITSELF = {"plackett_luce"}


@pytest.fixture(scope="module")
def problem():
    return ExactBayes.random(Diffusion(Absorbing(3)), L, seed=4)


def enumerated(problem, rule, steps):
    """The law over all states of what is left after so many calls, two values at each mask."""
    denoiser, law = problem.denoiser(), {(None, (MASK,) * L): 1.0}
    for call, t in enumerate(step_grid(steps)[:-1]):
        after = defaultdict(float)
        for (before, state), mass in law.items():
            x_t = torch.tensor([state])
            raw = denoiser(x_t, t).log_conditional
            masked = x_t == MASK
            drafts = torch.where(masked, all_sequences(2, L), x_t).unique(dim=0)
            many = (len(drafts), -1, -1)
            last = None if before is None else denoiser(torch.tensor([before]), t).log_conditional
            draft = Draft(
                raw.expand(many),
                raw.expand(many),
                drafts,
                masked.expand(len(drafts), -1),
                call,
                steps,
                None if last is None else last.expand(many),
                1 - masked.double().mean(1).expand(len(drafts)),
            )
            kept = rule(draft) if call < steps - 1 else draft.masked
            chance = raw.exp().expand(many).gather(-1, drafts[..., None])[..., 0]
            chance = torch.where(draft.masked, chance, torch.ones_like(chance)).prod(1)
            for row, p in zip(torch.where(kept, drafts, x_t).tolist(), chance, strict=True):
                after[state, tuple(row)] += mass * float(p)
        law = after
    total = torch.zeros(len(problem.states), dtype=torch.float64)
    for (_, state), mass in law.items():
        total[problem.index(torch.tensor(state))] += mass
    return total


@pytest.mark.parametrize("name", RULES)
def test_what_is_drawn_has_the_law_of_enumeration(problem, name):
    sampler, draws = UnmaskingSampler(RULES[name]), 20_000
    law = enumerated(problem, sampler.unmasking, N)
    assert law.sum() == pytest.approx(1)
    x = sampler.sample(problem.denoiser(), Canvas.empty((draws, L)), N, seeded(1))
    found = problem.index(x).bincount(minlength=len(law))
    spread = (draws * law * (1 - law)).sqrt()
    assert ((found - draws * law).abs() <= 4.5 * spread + 1e-6).all()


def test_no_rule_is_left_out():
    tried = {settings["type"] for settings in RULES.values()}
    assert tried | DRAWS_ITSELF == set(Unmasking.registry)


@pytest.mark.parametrize("score", ["left_to_right", "random", "confidence"])
def test_one_token_a_call_of_an_exact_denoiser_gives_the_data(problem, score):
    """The chain rule in any order that does not hang on the drafts; where it does, tokens of high
    probability are decided earlier, and the law is not the data's."""
    law = problem.data
    if score == "confidence":
        law = enumerated(problem, Unmasking.from_config("static"), L)
        assert (law - problem.data).abs().sum() / 2 > 0.01
    sampler = UnmaskingSampler({"type": "static", "score": score})
    x = sampler.sample(problem.denoiser(), Canvas.empty((20_000, L)), L, seeded(2))
    found = problem.index(x).bincount(minlength=len(law))
    spread = (20_000 * law * (1 - law)).sqrt()
    assert ((found - 20_000 * law).abs() <= 4.5 * spread + 1e-6).all()


def test_confidence_is_read_before_the_temperature(problem):
    """At temperature 0 every draft is certain; the surest position is still decided first."""
    sampler = UnmaskingSampler("static", temperature=0.0)
    denoiser, x = problem.denoiser(), torch.full((1, L), MASK)
    log_p = denoiser(x, 1.0).log_conditional
    step = sampler.step(denoiser, x, 1 - 1 / L, 1.0)
    surest = log_p.amax(-1).argmax()
    assert (step[0] != MASK).nonzero()[:, 0].tolist() == [surest]
    assert step[0, surest] == log_p[0, surest].argmax()


def test_a_rule_that_compares_sees_the_call_before_in_a_scheduler_too():
    model = made(max_position_embeddings=8)
    rule = {"type": "unmasking", "unmasking": {"type": "klass", "threshold": 0.2, "bound": 0.3}}
    pipe = piped(model, SamplerScheduler, sampler=rule)
    canvas = Canvas.empty((4, 8))
    for _ in range(2):  # a second run begins anew
        drawn = pipe(batch_size=4, num_inference_steps=4, generator=seeded()).sequences
        expected = Sampler.from_config(rule).sample(as_denoiser(model), canvas, 4, seeded())
        assert torch.equal(drawn, expected)


def test_a_prompt_is_kept_and_no_mask_is_left():
    pipe = piped(made(), SamplerScheduler, sampler="unmasking", temperature=0.5)
    given = torch.tensor([1, 2])
    seen = []

    def told(pipe, step, time, tensors):
        seen.append((tensors["sequences"] == 5).sum(1))
        assert tensors["sampled_probs"] is None
        return {}

    out = pipe(
        input_ids=given,
        batch_size=3,
        num_inference_steps=3,
        generator=seeded(),
        callback_on_step_end=told,
        callback_on_step_end_tensor_inputs=("sequences", "sampled_probs"),
    )
    assert torch.equal(out.sequences[:, :2], given.expand(3, 2)) and out.sequences.max() < 5
    assert torch.stack(seen, 1).tolist() == [[4, 2, 0]] * 3


def test_another_process_and_uneven_times_are_refused():
    with pytest.raises(ValueError, match="not under Uniform"):
        SamplerScheduler(Uniform(3).to_config(), sampler="unmasking")
    problem = ExactBayes.random(Diffusion(Uniform(3)), 1)
    with pytest.raises(ValueError, match="not under Uniform"):
        UnmaskingSampler().sample(problem.denoiser(), Canvas.empty((1, 1)), 1)
    masks = ExactBayes.random(Diffusion(Absorbing(3)), 1)
    with pytest.raises(ValueError, match="all rows at one time, got 0.1 to 0.2"):
        x_t, s = torch.full((2, 1), MASK), torch.tensor([0.1, 0.2]).double()
        UnmaskingSampler().step(masks.denoiser(), x_t, s, 0.5)
    with pytest.raises(ValueError, match="'unmasking' are no product.*'ancestral'"):
        UnmaskingSampler().rule(masks.denoiser()(x_t, 0.5), masks.diffusion, x_t, 0.1, 0.5)
