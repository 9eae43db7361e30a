"""Bayes' rule by enumeration: a small joint law, and all that a forward process makes of it.

Every sequence of the vocabulary is a state, in the order of `itertools.product`: a state is the
digits of its number in base K. The laws here are sums over clean sequences; of the package they
use the entries of its kernels and nothing else. Where a time is asked for, several may be given;
what comes out then has one dimension more in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.samplers import Ancestral, step_grid
from hf_ddistill.shapes import LOG_ZERO

ANCESTRAL = Ancestral()


def all_sequences(vocab_size, length):
    """(vocab_size ** length, length), int64."""
    return torch.cartesian_prod(*[torch.arange(vocab_size)] * length).reshape(-1, length)


@dataclass(frozen=True)
class ExactBayes:
    """A joint law over the clean sequences: those without noise tokens.

    Args:
        diffusion: the forward process.
        clean: (N, L), all the sequences that the data may be.
        law: (N,), their probabilities.
    """

    diffusion: Diffusion
    clean: torch.Tensor
    law: torch.Tensor

    @classmethod
    def random(cls, diffusion, length, seed=0):
        """A strictly positive joint law whose positions depend on each other."""
        noisy = torch.tensor(diffusion.process.noise_tokens, dtype=torch.int64)
        clean = all_sequences(diffusion.vocab_size, length)
        clean = clean[~torch.isin(clean, noisy).any(-1)]
        generator = torch.Generator().manual_seed(seed)
        law = torch.rand(len(clean), generator=generator, dtype=torch.float64) + 0.05
        return cls(diffusion, clean, law / law.sum())

    @classmethod
    def independent(cls, diffusion, length, seed=0):
        """A random joint law whose positions are independent."""
        one = cls.random(diffusion, 1, seed)
        clean = cls.random(diffusion, length).clean
        laws = torch.rand(length, len(one.clean), dtype=torch.float64) + 0.05
        order = torch.zeros(diffusion.vocab_size, dtype=torch.int64)
        order[one.clean[:, 0]] = torch.arange(len(one.clean))
        law = (laws / laws.sum(-1, keepdim=True)).gather(1, order[clean].mT).prod(0)
        return cls(diffusion, clean, law)

    @cached_property
    def states(self):
        """(K ** L, L)."""
        return all_sequences(self.diffusion.vocab_size, self.clean.shape[1])

    def index(self, x):
        """The states' numbers of sequences (..., L)."""
        size, length = self.diffusion.vocab_size, x.shape[-1]
        return (x * size ** torch.arange(length - 1, -1, -1)).sum(-1)

    def kernel(self, s, t):
        """p(x_t | x_s) of every pair of states, (K ** L, K ** L)."""
        return self._pairs(self.diffusion.kernel(s, t).dense(), self.states)

    def _pairs(self, one, start):
        places = zip(start.mT, self.states.mT, strict=True)
        return torch.stack([one[..., a, :][..., b] for a, b in places]).prod(0)

    @cached_property
    def data(self):
        """The law of x_0 over all states."""
        return torch.zeros(len(self.states), dtype=torch.float64).index_put(
            (self.index(self.clean),), self.law
        )

    def joint(self, t):
        """p(x_0, x_t), (N, K ** L)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        kernel = self.diffusion.kernel(torch.zeros_like(t), t).dense()
        return self.law[:, None] * self._pairs(kernel, self.clean)

    def marginal(self, t):
        """p_t(x_t), (K ** L,)."""
        return self.joint(t).sum(-2)

    def conditional(self, t):
        """p(x_0^i = v | x_t), (K ** L, L, K)."""
        one_hot = torch.nn.functional.one_hot(self.clean, self.diffusion.vocab_size).double()
        joint = self.joint(t)
        joint = joint / joint.sum(-2, keepdim=True)
        return torch.einsum("...nx,nlv->...xlv", joint, one_hot)

    def ratios(self, t):
        """p_t(x_t with y at position i) / p_t(x_t), (K ** L, L, K)."""
        size, length = self.diffusion.vocab_size, self.clean.shape[1]
        place = size ** torch.arange(length - 1, -1, -1)
        start = torch.arange(len(self.states))[:, None] - self.states * place
        neighbour = start[..., None] + torch.arange(size) * place[:, None]
        marginal = self.marginal(t)
        return marginal[neighbour] / marginal[:, None, None]

    def posterior(self, s, t):
        """p(x_s | x_t) of whole sequences, (x_t, x_s)."""
        joint = self.marginal(s)[:, None] * self.kernel(s, t)
        return (joint / joint.sum(0)).mT

    def denoiser(self, parameterization=None):
        """An oracle: the denoiser whose network knows every conditional."""

        def network(x_t, t, at=None):
            times, number = t.unique(return_inverse=True)
            conditional = self.conditional(times)[number[:, None], self.index(x_t)[:, None]]
            log_p = conditional[:, 0].log().clamp_min(LOG_ZERO)
            output = parameterization.from_log_conditional(log_p, self.diffusion, x_t, t)
            return output if at is None else output.flatten(0, 1)[at]

        parameterization = parameterization or Conditional()
        return NetworkDenoiser(network, self.diffusion, parameterization)

    def terminal_law(self, denoiser, num_steps, sampler=ANCESTRAL):
        """The exact law over all states of what a sampler draws."""
        grid = torch.tensor(step_grid(num_steps), dtype=torch.float64)
        steps = self.transitions(denoiser, grid[:-1], grid[1:], sampler)[:-1]
        last = self.transitions(denoiser, grid[-2:-1], grid[-1:], ANCESTRAL)
        law = self.diffusion.process.limit()[self.states].prod(-1)
        for transition in [*steps, *last]:
            law = law @ transition
        return law

    def transitions(self, denoiser, t, s, sampler):
        """(x_t, x_s) for each of the steps from t (T,) to s (T,), (T, K ** L, K ** L)."""
        size = len(self.states)
        x_t = self.states.repeat(len(t), 1)
        t, s = t.repeat_interleave(size), s.repeat_interleave(size)
        step = sampler.rule(denoiser(x_t, t), self.diffusion, x_t, s, t)
        return self.product(step.unflatten(0, (-1, size)))

    def product(self, step):
        """(x_t, x_s), where each position is drawn from its own `step` (..., K ** L, L, K)."""
        out = step[..., 0, :][..., self.states[:, 0]]
        for position in range(1, step.shape[-2]):
            out = out * step[..., position, :][..., self.states[:, position]]
        return out


def total_variation(p, q):
    """Half the sum of the absolute differences."""
    return float((p - q).abs().sum() / 2)
