"""Law matching with an autoregressive teacher, on laws that can be enumerated."""

from dataclasses import replace

import pytest
import torch
from causal_laws import MASKS, L, causal, law

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.laboratory import kl_divergence
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, block_law, draw_blocks
from hf_ddistill.laboratory.blocks.tables import BlockTable, block_table
from hf_ddistill.objectives import CausalLawMatching
from hf_ddistill.objectives.blocks.causal_law_matching import alone, caused
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.unmasking import Static


def table(block_size, seed=5):
    """A student with free logits, far from the teacher."""
    found = block_table(law(seed), block_size, MASKS)
    return BlockTable(
        [logits.detach().clamp_min(-3.0) for logits in found.logits], block_size, MASKS
    )


def step_of(decoder, rows, p=None, seed=7, **more):
    """Rollouts of the decoder; the auxiliary knows its law, or is a causal table of `p`."""
    generator = torch.Generator().manual_seed(seed)
    x_0, rounds = draw_blocks(decoder, rows, generator)
    with torch.no_grad():
        own = block_law(decoder).law if p is None else p
    return TrainingStep(
        x_0,
        MASKS,
        decoder.denoiser,
        {"teacher": causal(law(1)), "auxiliary": causal(own)},
        generator=generator,
        trajectory=Trajectory(rounds, decoder.block_size),
        **more,
    )


def gradients(objective, decoder, rows, seed=7, p=None):
    step = step_of(decoder, rows, p, seed, train=frozenset({"student"}))
    parameters = list(decoder.denoiser.network.parameters())
    found = torch.autograd.grad(objective(step)["student"], parameters)
    return L * torch.cat([part.flatten() for part in found])


def true_gradient(decoder):
    parameters = list(decoder.denoiser.network.parameters())
    divergence = kl_divergence(block_law(decoder).law, law(1))
    return torch.cat([g.flatten() for g in torch.autograd.grad(divergence, parameters)])


# ---------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize(
    ("block_size", "calls", "rule", "settings"),
    [
        (1, 1, "random", {"pathwise": True}),
        (2, 1, "random", {"pathwise": True}),
        (4, 1, "random", {"credit": "rollout"}),
        (4, 2, "random", {"pathwise": True}),
        (4, 2, "random", {}),
        (4, 3, "random", {"credit": "rollout", "pathwise": True}),
        (4, 3, "left_to_right", {"calls": "one", "pathwise": True}),
        (4, 2, "entropy", {"rollouts": {"group": 10}}),
    ],
)
def test_gradient_is_that_of_the_divergence_of_the_terminal_laws(block_size, calls, rule, settings):
    decoder = BlockDecoder(table(block_size).denoiser(), L, block_size, Static(rule), calls)
    true = true_gradient(decoder)
    found = gradients(CausalLawMatching(**settings), decoder, 40_000)
    assert float(true.norm()) > 0.3
    assert float((found - true).norm() / true.norm()) < 0.12
    assert float(found @ true / true.norm() ** 2) == pytest.approx(1, abs=0.05)


def test_each_refinement_takes_variance_away():
    decoder = BlockDecoder(table(4).denoiser(), L, 4, Static("random"), 2)
    true = true_gradient(decoder)
    with torch.no_grad():
        own = block_law(decoder).law

    def error(**settings):
        objective = CausalLawMatching(**settings)
        each = [gradients(objective, decoder, 100, seed, own) - true for seed in range(30)]
        return float(torch.stack(each).square().sum(1).mean())

    plain, credited, best = error(credit="rollout"), error(), error(pathwise=True)
    assert best < credited < plain


def test_student_with_the_teacher_s_law_is_pulled_nowhere():
    decoder = BlockDecoder(block_table(law(1), 4, MASKS).denoiser(), L, 4, calls=4)
    assert gradients(CausalLawMatching(), decoder, 64).abs().max() < 1e-9


def test_rule_on_drawn_tokens_leaves_a_bias_that_pathwise_makes_large():
    """What the docstring warns of; if this ever fails, the warning can go."""
    decoder = BlockDecoder(table(4).denoiser(), L, 4, Static("confidence"), 4)
    true = true_gradient(decoder)

    def off(**settings):
        found = gradients(CausalLawMatching(**settings), decoder, 40_000)
        return float((found - true).norm() / true.norm())

    assert 0.1 < off() < 0.25
    assert off(pathwise=True) > 0.8


# ---------------------------------------------------------------------------- credit


def credit_by_hand(rounds, size, i, j):
    """Whether something at or before j is token i, or is decided after it in its block or later."""
    block = i // size
    for k in range(j + 1):
        if k == i or k // size > block:
            return True
        if k // size == block and rounds[k] > rounds[i]:
            return True
    return False


def test_credit_is_what_a_token_can_still_change():
    rounds = torch.tensor([[1, 0, 2, 0, 0, 1, 0, 1], [0, 0, 0, 0, 3, 2, 1, 0]])
    trajectory = Trajectory(rounds, 4)
    values = torch.rand(2, 8, dtype=torch.float64)
    for row in range(2):
        for i in range(8):
            by_hand = sum(values[row, j] for j in range(8) if credit_by_hand(rounds[row], 4, i, j))
            assert float(caused(trajectory, values)[row, i]) == pytest.approx(float(by_hand))


def test_token_after_one_that_is_still_open_is_not_alone():
    trajectory = Trajectory(torch.tensor([[1, 0, 2, 2, 0, 1, 1, 0]]), 4)
    assert alone(trajectory).tolist() == [[True, False, True, True, True, True, True, False]]


def test_prompt_is_never_credited():
    decoder = BlockDecoder(table(2).denoiser(), L, 2)
    step = step_of(decoder, 8, train=frozenset({"student"}))
    rounds = step.trajectory.rounds.clone()
    rounds[:, :2] = -1
    step = replace(step, trajectory=Trajectory(rounds, 2))
    loss = CausalLawMatching()(step)["student"]
    first, second = torch.autograd.grad(loss, list(decoder.denoiser.network.parameters()))
    assert first.abs().max() == 0 and second.abs().max() > 0


# ---------------------------------------------------------------------------- the auxiliary


class FreeCausal(torch.nn.Module):
    """A causal network with one logit for each position and token."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(L, 3, dtype=torch.float64))

    def forward(self, x, t, at=None, causal=True):
        assert causal
        return self.logits.repeat(len(x), 1)[at]


def test_auxiliary_learns_the_student_s_law_and_takes_no_gradient_from_its_loss():
    decoder = BlockDecoder(table(1).denoiser(), L, 1)
    step = step_of(decoder, 64)
    network = FreeCausal()
    peers = {
        **step.peers,
        "auxiliary": NetworkDenoiser(network, MASKS, Conditional(), reads_time=None),
    }
    losses = CausalLawMatching()(replace(step, peers=peers))
    losses["student"].backward()
    assert network.logits.grad is None
    losses["auxiliary"].backward()
    share = torch.stack([(step.x_0[:, i] == 1).double().mean() for i in range(L)])
    assert torch.allclose(-network.logits.grad[:, 1] * L, share - 0.5)


def test_waiting_student_gets_no_loss():
    decoder = BlockDecoder(table(1).denoiser(), L, 1)
    step = step_of(decoder, 8, train=frozenset({"auxiliary"}))
    assert set(CausalLawMatching()(step)) == {"auxiliary"}


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"credit": "call"}, "token, rollout"),
        ({"calls": "two"}, "all, one"),
    ],
)
def test_wrong_setting_is_told_what_there_is(settings, named):
    with pytest.raises(ValueError, match=named):
        CausalLawMatching(**settings)


def test_step_that_cannot_be_trained_on_is_refused():
    decoder = BlockDecoder(table(2).denoiser(), L, 2)
    step = step_of(decoder, 8)
    with pytest.raises(ValueError, match="no trajectory"):
        CausalLawMatching()(replace(step, trajectory=None))
    with pytest.raises(ValueError, match="empty"):
        empty = Trajectory(torch.full_like(step.x_0, -1), 2)
        CausalLawMatching()(replace(step, trajectory=empty))
    with pytest.raises(ValueError, match="groups of 3"):
        CausalLawMatching({"group": 3})(step)
    with pytest.raises(ValueError, match="auxiliary"):
        CausalLawMatching()(replace(step, peers={}))
