"""What a training step takes at one time, in units of one float32 (B, L, K) tensor; and that what
saves memory changes no loss and no gradient."""

from __future__ import annotations

import sys

import pytest
import torch
from training_memory import BLOCKS, SEQUENCES, blocks, sequences, units

MOST = dict.fromkeys([*SEQUENCES, *BLOCKS], 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_step_takes_few_tensors_of_the_size_of_all_logits(name):
    found = units(name)
    print(f"{name}: {found:.2f}")  # shown with -rP
    assert 0.3 < found < MOST[name]


LONG = ("opdlm_posterior",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in MOST]
)
def test_gradients_that_go_straight_to_the_logits_are_the_same(name, monkeypatch):
    found = []
    for many in (1, 2**40):
        # A function of its package has the name of the module.
        module = sys.modules["hf_ddistill.parameterizations.normalised"]
        monkeypatch.setattr(module, "MANY", many)
        monkeypatch.setattr(module, "SOME", 200)
        monkeypatch.setattr("hf_ddistill.denoisers.network.MANY", many)
        monkeypatch.setattr("hf_ddistill.objectives.by_position.ON_CPU", 2**13)
        objective, step = (sequences if name in SEQUENCES else blocks)(name, 30)
        networks = [*step.student.networks(), *step.peers["auxiliary"].networks()]
        networks += [step.peers["coefficients"]] if name == "lsd" else []
        for network in [*networks, *step.peers["teacher"].networks()]:
            network.double()
        losses = objective(step)
        torch.stack([loss.double() for loss in losses.values()]).sum().backward()
        weights = [weight for network in networks for weight in network.parameters()]
        none = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        found.append((losses, torch.cat([gradient.flatten() for gradient in none])))
    for key, loss in found[0][0].items():
        torch.testing.assert_close(loss, found[1][0][key], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)
    assert found[0][1].abs().max() > 1e-6
