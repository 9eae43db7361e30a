"""Sums over the vocabulary at some positions, with their gradient in the place of a law."""

from __future__ import annotations

import sys

import pytest
import torch

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives.by_position import Certain, Last, by_position
from hf_ddistill.parameterizations import normalised
from hf_ddistill.processes import Absorbing

N, K = 9, 7


@pytest.mark.parametrize("some", [None, [0, 2, 3, 8], [5]])
@pytest.mark.parametrize("else_certain", [False, True])
def test_gradient_in_the_place_of_the_law_is_that_beside_it(some, else_certain, monkeypatch):
    monkeypatch.setattr(sys.modules["hf_ddistill.parameterizations.normalised"], "MANY", 1)
    monkeypatch.setattr("hf_ddistill.objectives.by_position.ON_CPU", 2 * K)
    generator, found = torch.Generator().manual_seed(0), []
    logits = torch.randn(N, 1, K, generator=generator).double().requires_grad_()
    other, weight = torch.rand(N, K, generator=generator), torch.rand(N, generator=generator)
    numbers = None if some is None else torch.tensor(some)
    certain = Certain(torch.arange(N) % (K - 1), torch.cos) if else_certain else None

    def distance(part, log_q, other):
        return (log_q.exp() * log_q * other[part]).sum(-1)

    for last in (True, False):
        log_q = normalised(logits, Diffusion(Absorbing(K)))
        use = Last(log_q) if last else log_q
        values = by_position(distance, use, numbers, certain if some else None, of=(other,))
        (slope,) = torch.autograd.grad((values * weight).sum(), logits)
        found.append((values, slope))
        # The last column is the mask's, which no logit has a part in.
        law = log_q.detach()[:, 0, :-1]
        assert torch.equal(law, slope[:, 0, :-1]) == last
    for one, same in zip(*found, strict=True):
        assert torch.equal(one, same)
    assert found[0][1].abs().max() > 0.01
