"""Top-k and top-p keep what a full sort keeps, in little memory."""

from __future__ import annotations

import pytest
import torch
from vocabulary import PeakBytes

from hf_ddistill.parameterizations.sharpening import FEW, sharpened
from hf_ddistill.shapes import LOG_ZERO


def by_sorting(log_p, temperature=1.0, top_k=None, top_p=1.0):
    """The definition: a stable sort, then as many of the first as are asked for."""
    p = (log_p.double() / temperature).masked_fill(log_p <= LOG_ZERO / 2, -torch.inf).softmax(-1)
    order = p.argsort(dim=-1, descending=True, stable=True)
    ordered = p.gather(-1, order)
    if top_k:
        ordered[..., top_k:] = 0
        ordered = ordered / ordered.sum(-1, keepdim=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    p = torch.zeros_like(p).scatter(-1, order, ordered)
    return p / p.sum(-1, keepdim=True)


def logits(kind, size=3 * FEW):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(6, 4, size, generator=generator, dtype=torch.float64)
    if kind == "peaked":
        return 6 * x
    if kind == "ties":
        return x.round()
    if kind == "impossible":
        return x.masked_fill(torch.rand(x.shape, generator=generator) < 0.5, -torch.inf)
    return x / 20 if kind == "flat" else x


SETTINGS = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["plain", "peaked", "flat", "ties", "impossible"])
def test_what_is_kept_is_what_a_stable_sort_keeps(kind, settings):
    x = logits(kind)
    out, expected = sharpened(x, **settings), by_sorting(x, **settings)
    assert torch.equal(out > LOG_ZERO / 2, expected > 0)
    torch.testing.assert_close(out.exp(), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_one_law_of_equal_tokens_keeps_the_first(settings):
    out = sharpened(torch.zeros(1, 1, 40), **settings)
    kept = (out[0, 0] > LOG_ZERO / 2).nonzero()[:, 0]
    assert kept.tolist() == list(range(len(kept))) and len(kept) < 41


@pytest.mark.parametrize("settings", [{}, {"top_k": 50}, {"top_p": 0.9}], ids=str)
def test_little_more_is_made_than_what_comes_out(settings):
    x = torch.randn(64, 2**16).log_softmax(-1)
    with PeakBytes() as watch, torch.no_grad():
        sharpened(x, **settings)
    # What it looks at is counted, too; before, 8 times as much was made for `top_p`.
    assert watch.peak <= 3.6 * x.nbytes


def test_gradients_reach_what_was_kept():
    x = logits("plain").requires_grad_()
    sharpened(x, 0.7, 20, 0.8).amax(-1).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
