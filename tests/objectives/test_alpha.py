"""Alpha's optimum, which the paper derives and nobody had tested: by two derivations."""

from __future__ import annotations

import pytest
import torch
from enumeration import oracle, predicted, tabular, training_step
from exact_bayes import ExactBayes, all_sequences

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import Alpha
from hf_ddistill.processes import Absorbing, Uniform

L = 4
#: Two groups of completions over disjoint tokens, and the heavier one is of two sequences.
GROUPS = {(0, 0, 0, 0): 0.4, (0, 1, 0, 0): 0.25, (2, 2, 2, 2): 0.35}


def problem_of(groups, size=3):
    clean = all_sequences(size, L)
    law = torch.full((len(clean),), 1e-6, dtype=torch.float64)
    for tokens, share in groups.items():
        law[(clean == torch.tensor(tokens)).all(-1)] = share
    return ExactBayes(Diffusion(Absorbing(size + 1)), clean, law / law.sum())


def gain(problem, marginals, a):
    """E_q prod_i p_i(x_i)^a: what the loss is the less of, the more there is."""
    of_tokens = [marginals[i, problem.clean[:, i]] for i in range(L)]
    return float(problem.law @ torch.stack(of_tokens).prod(0) ** a)


def best_marginals(problem, a, starts=10):
    """The fixed point p_i(c) ~ sum over {x: x_i = c} of q(x) prod_j p_j(x_j)^a with the most gain:
    where the derivative of `gain` on the simplex is 0, by no gradient."""
    size, generator = problem.diffusion.vocab_size - 1, torch.Generator().manual_seed(0)
    seen = torch.nn.functional.one_hot(problem.clean, size).double()
    found = []
    for _ in range(starts):
        p = torch.rand(L, size, generator=generator, dtype=torch.float64).softmax(-1)
        for _ in range(200):
            joint = problem.law * (seen * p).sum(-1).prod(-1) ** a
            p = torch.einsum("n,nlk->lk", joint / joint.sum(), seen)
        found.append((gain(problem, p, a), p))
    return max(found, key=lambda pair: pair[0])[1]


def objective_of_pi(problem, pi, a):
    """KL(pi || q_T) + a / (1 - a) TC(pi), T = 1 - a (the paper's form of the optimum)."""
    tempered = problem.law.log() / (1 - a)
    tempered = tempered - tempered.logsumexp(0)
    seen = torch.nn.functional.one_hot(problem.clean).double()
    marginals = torch.einsum("n,nlk->lk", pi, seen)
    entropy = torch.special.entr(pi).sum()
    correlation = torch.special.entr(marginals).sum() - entropy
    return float(-entropy - pi @ tempered + a / (1 - a) * correlation)


def trained(problem, sharpness, start, steps=200):
    student = tabular(problem, start)
    optimizer = torch.optim.Adam(student.networks()[0].parameters(), 0.1)
    objective = Alpha(sharpness)
    for seed in range(steps):
        step = training_step(problem, student, rows=128, seed=seed)
        optimizer.zero_grad()
        objective(step)["student"].backward()
        optimizer.step()
    blank = torch.full((1, L), problem.diffusion.process.mask_token_id)
    return student(blank, 1.0).log_conditional[0, :, :-1].exp().detach()


def start_of(problem):
    """The exact conditionals: the cross entropy's optimum, where the paper starts."""
    return predicted(problem, oracle(problem), 0.5).clamp_min(1e-6).log()


@pytest.mark.parametrize("sharpness", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_alpha_ends_elsewhere_than_where_its_paper_proves(sharpness):
    problem = problem_of(GROUPS)
    a = sharpness / L
    found, best = trained(problem, sharpness, start_of(problem)), best_marginals(problem, a)
    torch.testing.assert_close(found, best, atol=0.08, rtol=0)


def test_the_two_forms_of_alphas_optimum_disagree():
    problem, a = problem_of(GROUPS), 0.5
    best = best_marginals(problem, a)
    of_tokens = torch.stack([best[i, problem.clean[:, i]] for i in range(L)]).prod(0)
    pi = problem.law * of_tokens**a
    least = objective_of_pi(problem, pi / pi.sum(), a)
    generator = torch.Generator().manual_seed(1)
    for scale in (0.01, 0.1, 1.0) * 10:
        noise = torch.randn(pi.shape, generator=generator, dtype=torch.float64)
        other = (pi / pi.sum()) * (scale * noise).exp()
        assert objective_of_pi(problem, other / other.sum(), a) >= least - 1e-9


def test_alpha_keeps_two_groups_that_exclude_each_other():
    """Proposition 1: for 1 / m < a < 1 one group, and all of its completions."""
    problem = problem_of(GROUPS)
    found = trained(problem, 3.0, start_of(problem))
    assert float(found[0, 0]) > 0.99 and float(found[2, 2]) < 0.01
    assert 0.05 < float(found[1, 1]) < 0.5


def test_alpha_of_sharpness_0_is_no_cross_entropy():
    problem = problem_of(GROUPS)
    found, start = trained(problem, 0.0, torch.zeros(4**L, L, 4), 150), start_of(problem)
    torch.testing.assert_close(found, start.exp()[-1, :, :-1], atol=0.08, rtol=0)


def test_alpha_takes_a_process_without_masks():
    problem = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=0)
    with pytest.raises(ValueError, match="is of masked tokens, and the process 'uniform'"):
        Alpha().for_student(tabular(problem))
    with pytest.raises(ValueError, match="sharpness must be 0 or more"):
        Alpha(-1.0)
