"""Objectives in exact expectation: an oracle at any time, tabular students, every pair at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from exact_bayes import ExactBayes, all_sequences
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot

from hf_ddistill.couplings import Coupling, Past, TimeSampler, TrainingStep
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.shapes import LOG_ZERO


def digits(diffusion):
    """The standard problem: the law of 2 x 3 patches of scikit-learn's digits, `pixel > 7`."""
    images = torch.tensor(load_digits().images > 7).long()
    patches = images.unfold(1, 2, 1).unfold(2, 3, 1).reshape(-1, 6)
    number = (patches * 2 ** torch.arange(5, -1, -1)).sum(-1)
    law = torch.bincount(number, minlength=64).double()
    law = law / law.sum() + 1e-5
    return ExactBayes(diffusion, all_sequences(2, 6), law / law.sum())


def oracle(problem):
    """The denoiser that knows p(x_0 | x_t), each row at its own time."""

    def network(x_t, t, at=None):
        columns = problem.diffusion.kernel(torch.zeros_like(t), t).columns(x_t)
        likelihood = columns.gather(-1, problem.clean.mT.expand(len(x_t), -1, -1)).prod(1)
        seen = one_hot(problem.clean, problem.diffusion.vocab_size).double()
        joint = torch.einsum("bn,nlk->blk", likelihood * problem.law, seen)
        log_p = (joint / joint.sum(-1, keepdim=True)).log().clamp_min(LOG_ZERO)
        return log_p if at is None else log_p.flatten(0, 1)[at]

    return NetworkDenoiser(network, problem.diffusion, Conditional())


class Table(torch.nn.Module):
    """A network with one free logit for every state, position and token, the same at all times."""

    def __init__(self, problem, log_p=None):
        super().__init__()
        self.index = problem.index
        size, length = problem.diffusion.vocab_size, problem.clean.shape[1]
        if log_p is None:
            log_p = torch.randn(size**length, length, size, dtype=torch.float64)
        self.logits = torch.nn.Parameter(log_p.double().clone())

    def forward(self, x_t, t, at=None):
        output = self.logits[self.index(x_t)]
        return output if at is None else output.flatten(0, 1)[at]


def tabular(problem, log_p=None):
    """A denoiser that is a table: random, or of the given log-probabilities (K ** L, L, K)."""
    return NetworkDenoiser(Table(problem, log_p), problem.diffusion, Conditional())


def training_step(problem, student, rows=64, seed=0, **rest):
    """A step on draws of the law, with the oracle for its teacher."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = problem.clean[torch.multinomial(problem.law, rows, True, generator=generator)]
    return TrainingStep(
        x_0, problem.diffusion, student, {"teacher": oracle(problem)}, generator=generator, **rest
    )


def predicted(problem, denoiser, t):
    """p(x_0 | x_t) for every state, (K ** L, L, K)."""
    times = torch.full((len(problem.states),), t, dtype=torch.float64)
    log_p = denoiser(problem.states, times).log_conditional
    certain = one_hot(problem.states, problem.diffusion.vocab_size).double()
    open_ = problem.diffusion.undetermined(problem.states)[..., None]
    return torch.where(open_, log_p.exp(), certain)


@dataclass(frozen=True)
class _At(TimeSampler):
    """All rows at one (s, t), with the given weights."""

    s: float
    t: float
    weights: object = 1.0

    def draw(self, step):
        one = torch.ones(step.x_0.shape[0], dtype=torch.float64)
        return self.s * one, self.t * one, self.weights * one


@dataclass(frozen=True)
class _Pairs(Coupling):
    """The given pairs, one in each row."""

    x_t: torch.Tensor
    x_s: torch.Tensor

    def draw(self, step, s, t):
        return self.x_t, Past(lambda _: self.x_s)


def expectation(objective, problem, student, joint, s, t):
    """The objective (a dict of its settings) over all pairs, weighed by `joint` (x_t, x_s)."""
    now, past = joint.nonzero(as_tuple=True)
    pairs = _Pairs(problem.states[now], problem.states[past])
    times = _At(s, t, joint[now, past] * len(now))
    step = TrainingStep(
        x_0=pairs.x_t,
        diffusion=problem.diffusion,
        student=student,
        peers={"teacher": oracle(problem)},
        generator=torch.Generator().manual_seed(0),
    )
    return objective(coupling=pairs, times=times)(step)["student"]


def transition(problem, step, keeps_certain=True):
    """p(x_s | x_t) of whole states, where each position is drawn from its `step`; what is certain
    stays, unless the sampler does not keep it."""
    if keeps_certain:
        certain = one_hot(problem.states, problem.diffusion.vocab_size).double()
        step = torch.where(problem.diffusion.undetermined(problem.states)[..., None], step, certain)
    out = torch.ones(len(problem.states), len(problem.states), dtype=torch.float64)
    for position in range(problem.states.shape[1]):
        out = out * step[:, position, problem.states[:, position]]
    return out


def forward_joint(problem, s, t):
    """The true law of (x_t, x_s)."""
    return (problem.marginal(s)[:, None] * problem.kernel(s, t)).mT


def shared_joint(problem, s, t):
    """The law of (x_t, x_s), two positions, where x_0 gives way to one other token for good:
    Duo's pairs under uniform noise."""
    size = problem.diffusion.vocab_size
    kept = [float(problem.diffusion.kernel(0.0, at).dense()[0, 0]) for at in (t, s)]
    one = torch.zeros(size, size, size, dtype=torch.float64)  # x_0, x_t, x_s
    for x in range(size):
        one[x, x, x] = kept[0]
        for j in range(size):
            if j != x:
                one[x, j, x] = (kept[1] - kept[0]) / (size - 1)
                one[x, j, j] = (1 - kept[1]) / (size - 1)
    a, b = problem.clean.mT
    both = torch.einsum("n,nij,nkl->ikjl", problem.law, one[a], one[b])
    return both.reshape(size**2, size**2)


def stepped_joint(problem, denoiser, sampler, s, t):
    """The law of (x_t, x_s) where x_s is one step of a denoiser from the true x_t; a token of which
    x_0 is certain is x_0, whatever the denoiser says of it."""
    prediction = Prediction(predicted(problem, denoiser, t).log().clamp_min(LOG_ZERO))
    step = sampler.rule(prediction, problem.diffusion, problem.states, s, t)
    return problem.marginal(t)[:, None] * transition(problem, step, sampler.keeps_certain)


def fixed_point(problem, s, t, rounds):
    """q(x_t) = E[p(x_0 | x_s)] with x_s one ancestral step of q itself, by iteration.

    Bayes' rule here is on dense kernels: q(x_s | x_t, x_0) = P_0s[x_0, x_s] P_st[x_s, x_t] /
    P_0t[x_0, x_t].
    """
    first, then, whole = (problem.diffusion.kernel(*ends).dense() for ends in _ends(s, t))
    past = first[:, :, None] * then[None] / whole[:, None].clamp_min(1e-300)
    past = past[:, :, problem.states]  # (x_0, x_s, states, L)
    target, q = problem.conditional(s), problem.conditional(t)
    open_ = problem.diffusion.undetermined(problem.states)[..., None]
    for _ in range(rounds):
        step = torch.einsum("xla,asxl->xls", q, past)
        mixed = transition(problem, step) @ target.flatten(1)
        q = torch.where(open_, mixed.view_as(target), q)
        q = q / q.sum(-1, keepdim=True)  # rounding in the sum would grow from round to round
    return q


def _ends(s, t):
    return (0.0, s), (s, t), (0.0, t)
