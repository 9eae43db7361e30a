"""Log-probabilities in the place of logits, and gradients that go straight to the logits."""

from __future__ import annotations

import sys

import pytest
import torch

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional, Prediction, Subs
from hf_ddistill.processes import Absorbing, Uniform

B, L, K = 3, 4, 6


@pytest.fixture(params=[1, 2**40])
def many(request, monkeypatch):
    monkeypatch.setattr(sys.modules["hf_ddistill.parameterizations.normalised"], "MANY", 1)
    monkeypatch.setattr("hf_ddistill.denoisers.network.MANY", request.param)
    monkeypatch.setattr("hf_ddistill.denoisers.network.SOME", 2 * K)


def case(mask):
    generator = torch.Generator().manual_seed(mask)
    logits = torch.randn(B, L, K, generator=generator, dtype=torch.float64)
    x_t = torch.randint(K, (B, L), generator=generator).masked_fill(logits[..., 0] > 0, mask)
    return logits, x_t, torch.randint(K, (B, L), generator=generator)


def by_hand(logits, x_t, mask):
    log_p = logits.index_fill(-1, torch.tensor(mask), -1e6).log_softmax(-1)
    own = torch.nn.functional.one_hot(x_t, K).bool()
    return torch.where((x_t == mask)[..., None], log_p, torch.where(own, 0.0, -1e6).double())


@pytest.mark.parametrize("mask", [0, 3, K - 1])
def test_carried_tokens_and_both_ways_of_the_gradient_are_those_of_the_formula(mask, many):
    logits, x_t, x_0 = case(mask)
    diffusion, found = Diffusion(Absorbing(K, mask_token_id=mask)), []
    for ours in (True, False):
        given = logits.clone().requires_grad_()
        log_p = by_hand(given, x_t, mask)
        if ours:
            log_p = Subs().to_log_conditional(given, diffusion, x_t, None)
        chosen = log_p.gather(-1, x_0[..., None])[..., 0]
        if ours:
            chosen = Prediction(log_p).log_prob_of(x_0)
        # One part by the tokens alone, one by all of the law.
        total = (chosen.clamp_min(-50) * torch.arange(L)).sum() + (log_p.exp() * log_p).cos().sum()
        found.append((log_p, chosen, *torch.autograd.grad(total, given)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Held(torch.nn.Module):
    """Its output is its own weight, or a sum with it."""

    def __init__(self, logits, makes):
        super().__init__()
        self.logits, self.makes = torch.nn.Parameter(logits), makes

    def forward(self, x_t, t):
        return self.logits + 0 if self.makes else self.logits


@pytest.mark.parametrize("makes", [True, False])
def test_no_weight_is_written_over_and_an_output_that_was_made_is(makes, many):
    logits, x_t, _ = case(2)
    network = Held(logits.clone(), makes)
    seen = []
    network.register_forward_hook(lambda *given: seen.append(given[-1]))
    denoiser = NetworkDenoiser(network, Diffusion(Uniform(K)), Conditional())
    with torch.no_grad():
        log_p = denoiser(x_t, 0.5).log_conditional
    torch.testing.assert_close(log_p, logits.log_softmax(-1))
    assert torch.equal(network.logits, logits)
    in_place = makes and sys.modules["hf_ddistill.denoisers.network"].MANY == 1
    assert (log_p.data_ptr() == seen[0].data_ptr()) == in_place


class Head(torch.nn.Module):
    """A last layer, with something behind it or beside it."""

    def __init__(self, behind=None):
        super().__init__()
        torch.manual_seed(0)
        self.last, self.behind, self.beside = torch.nn.Linear(5, K).double(), behind, None

    def forward(self, x_t, t):
        hidden = torch.randn(B, L, 5, generator=torch.Generator().manual_seed(1)).double()
        logits = self.last(hidden)
        self.beside = logits.square().sum()
        return logits if self.behind is None else self.behind(logits)


@pytest.mark.parametrize("behind", [None, torch.tanh])
def test_logits_that_the_way_back_needs_are_not_written_over_and_others_are(behind, many):
    network, x_0 = Head(behind), case(2)[2]
    seen = []
    network.register_forward_hook(lambda *given: seen.append(given[-1]))
    said = NetworkDenoiser(network, Diffusion(Uniform(K)), Conditional())(x_0, 0.5)
    in_place = behind is None and sys.modules["hf_ddistill.denoisers.network"].MANY == 1
    assert (said.log_conditional.data_ptr() == seen[0].data_ptr()) == in_place
    # One part by the tokens alone, one by all of the law.
    parts = said.log_prob_of(x_0), said.log_conditional.exp().square()
    expected = network(x_0, 0.5).log_softmax(-1)
    by_hand = expected.gather(-1, x_0[..., None])[..., 0], expected.exp().square()
    found = [
        torch.autograd.grad(sum(part.sum() for part in both), network.last.weight)[0]
        for both in (parts, by_hand)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_who_keeps_logits_that_are_written_over_gets_an_error_and_no_wrong_gradient(many):
    network = Head()
    NetworkDenoiser(network, Diffusion(Uniform(K)), Conditional())(case(2)[2], 0.5)
    if sys.modules["hf_ddistill.denoisers.network"].MANY > 1:
        network.beside.backward()
        return
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        network.beside.backward()
