"""Teachers that are made of others: what they say, and where students of theirs end."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from enumeration import tabular, training_step
from exact_bayes import ExactBayes
from small_laws import FLIPS, MASKS, problem

from hf_ddistill.denoisers import Blended, Guided, Latent, Moving, NetworkDenoiser, Proxy, Recursive
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Absorbing

T = 0.6
both = pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])


def laws(diffusion, *denoisers):
    x_t = torch.tensor([[0, 1, diffusion.vocab_size - 1], [diffusion.vocab_size - 1] * 3])
    return [each(x_t, torch.full((2,), T)).log_conditional.exp() for each in denoisers]


def normalised(law):
    return law / law.sum(-1, keepdim=True)


@both
def test_proxy_is_no_ratio_of_laws(diffusion):
    base, tuned, untuned = (problem(diffusion, seed).denoiser() for seed in (1, 2, 3))
    b, t, u, found = laws(diffusion, base, tuned, untuned, Proxy(base, tuned, untuned, 0.7))
    moved = torch.where(b > 0, b * (t / u.clamp_min(1e-30)) ** 0.7, torch.zeros_like(b))
    torch.testing.assert_close(found, normalised(moved))
    # Where the large one is as the small one was, it becomes what the small one is.
    (same,) = laws(diffusion, Proxy(untuned, tuned, untuned))
    torch.testing.assert_close(same, t)


@both
def test_blend_is_not_between_its_ends(diffusion):
    teacher, student = (problem(diffusion, seed).denoiser() for seed in (1, 2))
    blends = [Blended(teacher, student, share) for share in (1.0, 0.0, 0.5)]
    t, s, *found = laws(diffusion, teacher, student, *blends)
    for law, expected in zip(found, (t, s, normalised((t * s).sqrt())), strict=True):
        torch.testing.assert_close(law, expected)


def test_recursion_without_an_anchor_is_bounded():
    """Each round a student that multiplies its teacher's logarithms by g; in closed form."""
    g, share, exact = 1.2, 0.3, problem(MASKS, 1).denoiser()

    def student_of(teacher):
        return NetworkDenoiser(
            lambda x, t: g * teacher(x, t).log_conditional, MASKS, exact.parameterization
        )

    anchored = free = exact
    for _ in range(60):
        anchored, free = student_of(Recursive(exact, anchored, share)), student_of(free)
        if _ == 5:
            early = free
    power = g * share / (1 - g * (1 - share))
    p, a, f = laws(MASKS, exact, anchored, early)
    torch.testing.assert_close(a, normalised(p**power), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(f, normalised(p ** (g**6)), atol=1e-4, rtol=1e-4)
    assert power < g**6 and laws(MASKS, free)[0].amax(-1).min() > 0.9


# ---------------------------------------------------------------------------- moving


def moves(losses, pace, steps=20):
    """The shares of a training whose loss is said."""
    exact, other = problem(MASKS, 1).denoiser(), problem(MASKS, 2).denoiser()
    teacher, memory, shares = Moving(exact, 0.4, pace), {}, []
    for number in range(steps):
        for _ in range(2):  # micro batches
            blend = teacher.at_step(other, number / steps, memory)
            blend.seen(torch.tensor(losses(number)).double())
        shares.append(float(blend.share))
    return shares


def test_share_falls_behind_the_line_or_does_not_follow_the_loss():
    line = [0.4 + 0.6 * number / 20 for number in range(20)]
    assert moves(lambda _: 1.0, 0.0) == pytest.approx(line)
    falling, level = moves(lambda n: 0.5**n, 0.2), moves(lambda _: 1.0, 0.2)
    # At a level loss the momentum is 0, and a step is half the pace of what is left.
    by_hand = [0.4]
    for number in range(1, 20):
        by_hand.append(max(line[number], by_hand[-1] + 0.1 * (1 - by_hand[-1])))
    assert level == pytest.approx(by_hand) and falling[5] > level[5] + 1e-4
    assert all(a < b for a, b in zip(falling, falling[1:], strict=False)) and falling[-1] < 1


def test_teacher_of_an_evaluation_moves():
    """In training it is the blend of that step, also for some of its rows; held out the teacher."""
    exact = ExactBayes.random(Diffusion(Absorbing(4)), 2, seed=1)
    made, student = training_step(exact, tabular(exact)), tabular(exact)
    teacher = Moving(made.peers["teacher"], 0.2)
    step = replace(made, student=student, peers={"teacher": teacher}, progress=0.5)
    for each in (step, step.rows(torch.tensor([3, 1]))):
        assert each.peers["teacher"].student is student
        assert float(each.peers["teacher"].share) == pytest.approx(0.6)
    before = {name: value.clone() for name, value in step.memory.tensors.items()}
    held_out = replace(made, student=student, peers={"teacher": teacher}, held_out=True)
    assert held_out.peers["teacher"] is teacher
    said = teacher(step.x_0, 0.9).log_conditional
    assert torch.equal(said, made.peers["teacher"](step.x_0, 0.9).log_conditional)
    assert before == step.memory.tensors


# ---------------------------------------------------------------------------- refusals


def test_parts_that_do_not_go_together_make_a_teacher():
    one, other = problem(MASKS, 1).denoiser(), problem(FLIPS, 1).denoiser()
    noisy = NetworkDenoiser(one.network, MASKS, one.parameterization, Latent(2))
    for made in (
        partial(Proxy, one, one),
        partial(Blended, one, share=0.5),
        partial(Recursive, one),
    ):
        with pytest.raises(ValueError, match="must share one vocabulary, got vocab_size=3 and 2"):
            made(**_last(made, other))
        with pytest.raises(ValueError, match="takes noise, 2 numbers per position"):
            made(**_last(made, noisy))
    for kind in (partial(Blended, one, one), partial(Recursive, one, one)):
        with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
            kind(1.5)
    with pytest.raises(ValueError, match=r"start must lie in \[0, 1\].*got start=-0.1"):
        Moving(one, -0.1)


def _last(made, denoiser):
    return {{Proxy: "untuned", Blended: "student", Recursive: "latest"}[made.func]: denoiser}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_told_as_a_rate_that_is_too_high(wrong):
    one = problem(MASKS, 1).denoiser()
    for make in (lambda: Guided(one, wrong), lambda: Proxy(one, one, one, wrong)):
        with pytest.raises(ValueError, match="must be finite, got (nan|inf)"):
            make()


def test_guidance_without_a_class_is_two_equal_calls():
    with pytest.raises(ValueError, match="Guidance needs class_labels"):
        Guided(problem(MASKS, 1).denoiser(), 1.0)(torch.tensor([[2, 2, 2]]), T)
