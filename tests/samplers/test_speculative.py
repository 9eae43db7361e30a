"""Speculative decoding in any order: the law by all branches of the code, and what it costs."""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes, total_variation
from pipeline_cases import made, seeded

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.denoisers import Drafted, Latent, NetworkDenoiser, Sharpened
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.linalg import verify_drafts
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Canvas, Speculative, UnmaskingSampler, speculate
from hf_ddistill.schedulers import SamplerScheduler
from hf_ddistill.schedules import LogLinear

K, L, MASK = 3, 3, 2
MASKS = Diffusion(Absorbing(K), LogLinear(1e-10))
ONE_BY_ONE = UnmaskingSampler({"type": "static", "score": "random"})


def network(seed, scale=1.5, hangs_on_time=False):
    """A denoiser of no law: its conditionals fit together in no order."""
    table = scale * torch.randn(L * K, L * K, generator=torch.Generator().manual_seed(seed))

    def logits(x_t, t, at=None):
        seen = torch.nn.functional.one_hot(x_t, K).double().flatten(1)
        out = (seen @ table.double()).unflatten(1, (L, K))
        out = out * (1 + t[:, None, None]) if hangs_on_time else out
        return out if at is None else out.flatten(0, 1)[at]

    return NetworkDenoiser(logits, MASKS, reads_time="t" if hangs_on_time else None)


def law(denoiser, sampler, steps=1):
    with torch.no_grad():
        grid = sampler.grid(steps, MASKS)
        return terminal_law(denoiser, MASKS, L, grid, sampler)


TEACHER = network(0, hangs_on_time=True)
SEQUENTIAL = law(TEACHER, ONE_BY_ONE, L)
DRAFTS = {
    "itself": TEACHER,
    "wrong": Drafted(TEACHER, network(1)),
    "certain": Drafted(TEACHER, Sharpened(network(1), 0.0)),
}


@pytest.mark.parametrize(
    ("draft", "lookahead"),
    [
        ("itself", 1),
        ("wrong", 2),
        *(pytest.param(d, k, marks=pytest.mark.slow) for d in DRAFTS for k in (1, 2, 5)),
    ],
)
def test_the_law_hangs_on_the_draft(draft, lookahead):
    assert total_variation(law(DRAFTS[draft], Speculative(lookahead)), SEQUENTIAL) < 1e-8


@pytest.mark.parametrize("steps", [3])
def test_the_law_hangs_on_the_number_of_steps(steps):
    assert total_variation(law(TEACHER, Speculative(2), steps), SEQUENTIAL) < 1e-8
    few = total_variation(law(TEACHER, ONE_BY_ONE, 1), SEQUENTIAL)
    assert few > 0.05, "the test could not fail: tokens drawn together have the same law"


def test_an_exact_teacher_does_not_give_the_data():
    problem = ExactBayes.random(MASKS, L, seed=4)
    clean = problem.data[problem.index(problem.clean)]
    for denoiser in (problem.denoiser(), Drafted(problem.denoiser(), network(1))):
        assert total_variation(law(denoiser, Speculative(2)), clean) < 1e-8


def test_temperature_and_top_k_are_those_of_teacher_or_draft_alone():
    one = law(Sharpened(TEACHER, 0.5, top_k=1), Speculative(2))
    assert total_variation(one, law(Sharpened(TEACHER, 0.5, top_k=1), ONE_BY_ONE, L)) < 1e-8
    both = Sharpened(DRAFTS["wrong"], 0.5)
    assert both.draft == Sharpened(DRAFTS["wrong"].drafter, 0.5)
    assert total_variation(law(both, Speculative(2)), law(both, ONE_BY_ONE, L)) < 1e-8


def test_what_is_kept_is_one_minus_the_total_variation():
    p, q = torch.rand(2, 5, generator=seeded(), dtype=torch.float64).softmax(-1)
    n = 20_000
    drafts = torch.multinomial(q, n, True, generator=seeded(1))[:, None]
    laws = p.expand(n, 2, -1), q.expand(n, 1, -1)
    kept, token = verify_drafts(drafts, laws[1], laws[0], torch.ones(n).long(), seeded(2))
    assert float(kept.double().mean()) == pytest.approx(1 - total_variation(p, q), abs=0.01)
    first = torch.where(kept > 0, drafts[:, 0], token)
    assert total_variation(first.bincount(minlength=5) / n, p) < 0.015


def test_a_right_draft_is_ever_refused_or_costs_more_rows_than_tokens():
    """Positions that do not look at each other: one call draws k + 1 of them."""
    table = torch.randn(L, K, generator=seeded(), dtype=torch.float64)

    def logits(x_t, t, at=None):
        out = table.expand(len(x_t), L, K)
        return out if at is None else out.flatten(0, 1)[at]

    apart = NetworkDenoiser(logits, MASKS, reads_time=None)
    masks = torch.full((50, L), MASK)
    done = speculate(Drafted(apart, apart), masks, 2, seeded())
    assert done.calls.tolist() == [1] * 50 and done.rows.tolist() == [3] * 50
    assert done.tokens.tolist() == [3] * 50 and bool((done.x_0 < MASK).all())
    assert done.tokens_per_call.tolist() == [3.0] * 50
    alone = speculate(apart, masks, 2, seeded())  # whose first call has no draft yet
    assert alone.calls.tolist() == [2] * 50 and alone.drafted.tolist() == [1] * 50


def test_a_row_hangs_on_its_batch():
    """Rows keep different numbers of drafts, finish at different calls, and have different given
    tokens; the network is shown none that is finished."""
    shown = []

    def counting(x_t, t, at=None):
        shown.append(len(x_t))
        return TEACHER.network(x_t, t, at)

    pair = Drafted(NetworkDenoiser(counting, MASKS), network(1))
    given = torch.tensor([[0, MASK, 1], [MASK] * 3, [1, MASK, MASK], [0, 1, 0], [MASK] * 3])
    streams = [torch.Generator().manual_seed(row) for row in range(5)]
    together = speculate(pair, given, 2, streams)
    assert sum(shown) == int(together.rows.sum()) and int(together.calls[3]) == 0
    for row in range(5):
        alone = speculate(pair, given[row : row + 1], 2, seeded(row))
        for name in ("x_0", "calls", "rows", "tokens", "drafted"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])
    kept = given != MASK
    assert torch.equal(together.x_0[kept], given[kept])


def test_a_state_put_in_its_place_breaks_the_drafts_of_the_one_before():
    canvas = Canvas.empty((4, L))

    def on_step(reached):
        reached.state = torch.tensor([[MASK, 1, MASK]] * 4)

    x = Speculative(2).sample(TEACHER, canvas, 3, seeded(), on_step)
    assert torch.equal(x, torch.tensor([[MASK, 1, MASK]] * 4))

    def once(reached):
        if reached.number == 0:
            on_step(reached)

    x = Speculative(2).sample(TEACHER, canvas, 3, seeded(), once)
    assert x.max() < MASK and x[:, 1].tolist() == [1] * 4


def test_a_draft_with_noise_changes_the_law():
    """It is one more draft, whatever its noise."""

    def noisy(x_t, t, noise=None, at=None):
        out = network(1).network(x_t, t) + 2 * noise.sum(-1, keepdim=True) * torch.arange(K)
        return out if at is None else out.flatten(0, 1)[at]

    drafter = NetworkDenoiser(noisy, MASKS, latent=Latent(2), reads_time=None)
    x = speculate(Drafted(TEACHER, drafter), torch.full((20_000, L), MASK), 2, seeded()).x_0
    clean = (x * 2 ** torch.tensor([2, 1, 0])).sum(1).bincount(minlength=8) / 20_000
    assert total_variation(clean, SEQUENTIAL) < 0.015


def test_a_pipeline_does_not_run_it_with_a_network_of_its_own(tmp_path):
    model = made(max_position_embeddings=8)
    entry = {**model.config.discrete_diffusion, "sampler": {"type": "speculative", "lookahead": 3}}
    model.config.discrete_diffusion = entry
    model.save_pretrained(tmp_path)
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipe.scheduler) is SamplerScheduler
    assert pipe.scheduler.sampler == Speculative(3)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(batch_size=1, num_inference_steps=4, generator=seeded())
    assert out.sequences.max() < 5 and 2 <= out.num_network_calls <= 8
    given = torch.tensor([1, 2])
    out = pipe(input_ids=given, batch_size=2, num_inference_steps=8, generator=seeded())
    assert torch.equal(out.sequences[:, :2], given.expand(2, 2)) and out.sequences.max() < 5


def test_what_it_is_not_defined_for_is_no_sentence():
    with pytest.raises(ValueError, match="'speculative' decides masked positions.*not under Unif"):
        problem = ExactBayes.random(Diffusion(Uniform(K)), L)
        Speculative().sample(problem.denoiser(), Canvas.empty((1, L)), 1)
    for lookahead in (0, -1):
        with pytest.raises(ValueError, match="lookahead.*must be at least 1, got"):
            Speculative(lookahead)
    with pytest.raises(ValueError, match="lookahead of Speculative must be an integer, got True"):
        Speculative(True)
    with pytest.raises(ValueError, match="lookahead.*must be at least 1, got 0"):
        speculate(TEACHER, torch.full((1, L), MASK), 0)
    other = NetworkDenoiser(TEACHER.network, Diffusion(Absorbing(4)))
    with pytest.raises(ValueError, match="teacher has vocab_size=3 and its drafter 4"):
        Drafted(TEACHER, other)
    other = NetworkDenoiser(TEACHER.network, Diffusion(Absorbing(3, 0)), Conditional())
    with pytest.raises(ValueError, match="teacher has mask_token_id=2 and its drafter 0"):
        Drafted(TEACHER, other)
