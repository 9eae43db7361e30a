"""What every denoiser keeps to: its two calls agree, its networks can be taken, put back, copied.

A new kind is found by itself; its example is made by the types of its fields.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_type_hints

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from hf_ddistill import denoisers
from hf_ddistill.denoisers import Autoregressive, Denoiser, Ensemble, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.processes import Absorbing

K, L = 4, 5
MASKS = Diffusion(Absorbing(K))
X = torch.tensor([[0, K - 1, 2, K - 1, 1], [K - 1] * L])
T = torch.tensor([0.4, 1.0])
WHERE = torch.tensor([[False, True, True, False, False], [True, False, False, False, True]])
GIVEN = {"class_labels": torch.tensor([0, 1])}
KINDS = [
    kind
    for kind in map(denoisers.__dict__.get, denoisers.__all__)
    if isinstance(kind, type) and issubclass(kind, Denoiser) and not inspect.isabstract(kind)
]


class Net(nn.Module):
    """Looks at tokens, time, class and the direction of attention."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(K * L + 5, K * L)

    def forward(self, x_t, t, at=None, class_labels=None, causal=False):
        known = torch.full((len(x_t),), 2) if class_labels is None else class_labels
        flag = torch.full((len(x_t), 1), float(causal))
        parts = [one_hot(x_t, K).flatten(1), one_hot(known, 3), t[:, None], flag]
        logits = self.body(torch.cat([part.float() for part in parts], 1)).view(-1, L, K)
        return logits if at is None else logits.flatten(0, 1)[at]


def network(seed):
    return NetworkDenoiser(Net(seed).eval().requires_grad_(False), MASKS, Conditional())


def example(kind, seed=0):
    """One of its kind, of networks that `seed` decides."""
    if kind is NetworkDenoiser:
        return network(seed)
    hints, given = get_type_hints(kind), {}
    for number, field in enumerate(dataclasses.fields(kind)):
        hint, own = hints[field.name], 10 * seed + 2 * number
        if inspect.isclass(hint) and issubclass(hint, Denoiser):
            given[field.name] = network(own)
        elif "tuple" in str(hint):
            given[field.name] = (network(own), network(own + 1))
        elif "Mapping" in str(hint):
            given[field.name] = {"causal": True}
        elif hint is float:
            given[field.name] = 0.5
    return kind(**given)


def said(denoiser):
    return denoiser(X, T, **GIVEN).log_conditional


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def test_positions_that_are_asked_for_get_what_a_whole_call_gives_them(kind):
    denoiser = example(kind)
    log_p = said(denoiser)
    assert log_p.shape == (2, L, K)
    torch.testing.assert_close(log_p.logsumexp(-1), torch.zeros(2, L).to(log_p), atol=1e-5, rtol=0)
    assert float(log_p[..., K - 1].exp().max()) == 0
    at = denoiser.at(X, T, WHERE, **GIVEN).log_conditional
    torch.testing.assert_close(at[:, 0], log_p[WHERE])
    for size in (1, 2, 50):
        pieces = [said.log_conditional for said in denoiser.pieces(X, T, WHERE, size, **GIVEN)]
        assert all(len(piece) <= size for piece in pieces)
        torch.testing.assert_close(torch.cat(pieces), at)


def test_every_network_is_named_and_can_be_replaced(kind):
    denoiser, other = example(kind), example(kind, 1)
    before, count = said(denoiser), len(denoiser.networks())
    assert count and all(isinstance(each, nn.Module) for each in denoiser.networks())
    assert torch.equal(said(denoiser.with_networks(denoiser.networks())), before)
    exchanged = denoiser.with_networks(other.networks())
    assert type(exchanged) is kind and exchanged.diffusion == denoiser.diffusion
    assert torch.equal(said(exchanged), said(other)) and not torch.equal(said(other), before)
    assert torch.equal(said(denoiser), before)
    called = []
    for number, each in enumerate(denoiser.networks()):
        each.register_forward_hook(lambda *_, number=number: called.append(number))
    said(denoiser), said(denoiser.draft)
    assert {*called} == {*range(count)}


def test_output_can_be_read_otherwise(kind):
    denoiser = example(kind)
    other = denoiser.read_as(Subs())
    assert type(other) is kind and other.networks() == denoiser.networks()
    if kind is not Autoregressive:  # which reads tokens from left to right, whatever is said
        certain = said(other).exp()[0, [0, 2, 4], X[0, [0, 2, 4]]]
        torch.testing.assert_close(certain, torch.ones_like(certain))


def test_copy_is_one_network_that_can_be_trained_and_shares_no_weight(kind):
    denoiser = example(kind)
    (copied,) = denoiser.trainable_copy().networks()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in copied.parameters())
    theirs = {p.data_ptr() for each in denoiser.networks() for p in each.parameters()}
    assert not theirs & {p.data_ptr() for p in copied.parameters()}
    assert not any(p.requires_grad for each in denoiser.networks() for p in each.parameters())


def test_description_tells_denoisers_of_other_settings_apart(kind):
    denoiser = example(kind)
    assert denoiser.description == example(kind).description
    for field in dataclasses.fields(kind):
        if get_type_hints(kind)[field.name] is float:
            other = dataclasses.replace(denoiser, **{field.name: 0.75})
            assert other.description != denoiser.description


def test_denoiser_of_a_function_has_nothing_to_be_placed_or_copied():
    denoiser = NetworkDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, K), MASKS)
    assert denoiser.networks() == () and denoiser.with_networks(()) is denoiser
    with pytest.raises(ValueError, match="Only a model can be copied.*got function"):
        denoiser.trainable_copy()


def test_several_causal_models_are_one_teacher_from_left_to_right():
    models = [network(seed) for seed in (1, 2)]
    each = [Autoregressive(model)(X, T).log_conditional for model in models]
    expected = (sum(each) / 2).log_softmax(-1)[..., : K - 1]
    found = Autoregressive(Ensemble(tuple(models)))(X, T).log_conditional[..., : K - 1]
    torch.testing.assert_close(found, expected)
