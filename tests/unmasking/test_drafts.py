"""What a rule may ask of a draft: the same numbers from the laws of all positions and from those
of the masked ones alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hf_ddistill.unmasking import Draft, Static, Unmasking

RULES = [
    *(rule() for rule in Unmasking.registry.values()),
    *(Static(score) for score in ("margin", "entropy", "random", "left_to_right")),
]


def laws(*shape, seed=0):
    """Random log-probabilities along the last dimension, float32."""
    generator = torch.Generator().manual_seed(seed)
    return (8 * torch.rand(*shape, generator=generator)).log_softmax(-1)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_laws_of_masked_positions_alone_decide_the_same(rule):
    raw, other = laws(5, 6, 4), laws(5, 6, 4, seed=1)
    masked = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    for before in (None, (0.99 * raw + 0.01 * other).log_softmax(-1)):
        packed = None if before is None else before[masked]
        whole = Draft(raw, raw, raw.argmax(-1), masked, 0, 3, before)
        alone = dataclasses.replace(whole, log_p=raw[masked], raw=raw[masked], before=packed)
        found = [
            rule(dataclasses.replace(each, generator=torch.Generator().manual_seed(7)))
            for each in (whole, alone)
        ]
        assert torch.equal(*found) and found[0].any(1).equal(masked.any(1))


def test_the_numbers_of_a_draft_are_those_of_their_formulas():
    raw, before = laws(3, 5, 7), laws(3, 5, 7, seed=1)
    masked = torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.7
    draft = Draft(raw, raw, raw.argmin(-1), masked, 0, 3, before)
    p, q = raw.double().exp(), before.double().exp()
    two = p.sort(-1, descending=True).values
    expected = {
        "confidence": (p.amin(-1), -1.0),
        "entropy": (-(p * p.log()).sum(-1), torch.inf),
        "margin": (two[..., 0] - two[..., 1], -1.0),
        "gap": ((two[..., 0] / two[..., 1]).log(), 0.0),
        "change": ((p * (p / q).log()).sum(-1), torch.inf),
    }
    for name, (values, elsewhere) in expected.items():
        found = getattr(draft, name)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found[masked], values[masked], rtol=1e-5, atol=1e-6)
        assert (found[~masked] == elsewhere).all()


@pytest.mark.parametrize("rule", [Static("random"), Static("left_to_right")], ids=repr)
def test_a_rule_that_reads_no_logits_needs_none(rule):
    masked = torch.tensor([[True, False, True, True], [False] * 4])
    draft = Draft(None, None, None, masked, 0, 2, generator=torch.Generator())
    assert not rule.reads_logits and rule(draft).sum(1).tolist() == [2, 0]
    assert Static("entropy").reads_logits
