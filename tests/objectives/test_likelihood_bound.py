"""The closed forms of the likelihood bound are the sum over the vocabulary that they stand for."""

from __future__ import annotations

import pytest
import torch
from largest_tensor import LargestTensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives.likelihood_bound import nelbo_density, score_entropy
from hf_ddistill.parameterizations import Conditional, Prediction, Subs
from hf_ddistill.processes import Absorbing, Hybrid, Process, Uniform
from hf_ddistill.schedules import Schedule

K = 7
CLOSED = {
    "absorbing": Absorbing(K, mask_token_id=3),
    "hybrid_of_masks_alone": Hybrid(K, 0.0, mask_token_id=0),
    "uniform": Uniform(K),
    "uniform_of_two": Uniform(2),
    "hybrid": Hybrid(K, 0.3, mask_token_id=2),
    "hybrid_constant": Hybrid(K, 0.3, mask_token_id=0, constant=True),
}


def case(diffusion, seed=0, rows=24):
    """Logits, x_0, x_t and times; every second row keeps most of its x_0."""
    generator = torch.Generator().manual_seed(seed)
    size, noise = diffusion.vocab_size, diffusion.process.noise_tokens
    data = torch.tensor([k for k in range(size) if k not in noise])
    x_0 = data[torch.randint(len(data), (rows, 5), generator=generator)]
    t = torch.rand(rows, generator=generator, dtype=torch.float64).clamp(1e-3, 1)
    t[0], t[1] = 1e-3, 1.0
    x_t = diffusion.corrupt(x_0, t, generator)
    logits = torch.randn(rows, 5, size, generator=generator, dtype=torch.float64) * 3
    return logits.requires_grad_(), x_0, x_t, t


def both(diffusion, logits, x_0, x_t, t):
    """(density, gradient of its sum in the logits) by the closed form, and by the sum."""
    reading = Subs() if diffusion.reveals else Conditional()
    found = []
    for closed in (True, False):
        prediction = Prediction(reading.to_log_conditional(logits, diffusion, x_t, t))
        if closed:
            density = nelbo_density(prediction, diffusion, x_0, x_t, t)
        else:
            score = prediction.score(diffusion, x_t, t)
            density = score_entropy(score, diffusion, x_0, x_t, t)
        found.append((density.detach(), torch.autograd.grad(density.sum(), logits)[0]))
    return found


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("schedule", Schedule.registry)
def test_closed_form_is_the_sum_over_the_vocabulary_and_so_is_its_gradient(name, schedule):
    diffusion = Diffusion(CLOSED[name], Schedule.from_config(schedule))
    closed, general = both(diffusion, *case(diffusion))
    scale = general[0].abs().clamp_min(1)
    assert float(((closed[0] - general[0]).abs() / scale).max()) < 1e-10
    assert general[0].abs().max() > 0.1
    steepest = general[1].abs().max()
    assert float((closed[1] - general[1]).abs().max() / steepest) < 1e-10


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_in_float32_is_near_to_that_in_float64(name):
    diffusion = Diffusion(CLOSED[name])
    logits, x_0, x_t, t = case(diffusion, seed=1)
    exact = both(diffusion, logits, x_0, x_t, t)[0]
    single = both(diffusion, logits.detach().float().requires_grad_(), x_0, x_t, t)[0]
    torch.testing.assert_close(single[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    assert (single[1] - exact[1]).abs().max() < 1e-5 * exact[1].abs().max()


@pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
def test_flat_noise_is_what_the_process_says(cls):
    process = cls.example(6)
    sigma = torch.tensor([0.3, 1.2], dtype=torch.float64)
    moved = process.kernel(torch.zeros_like(sigma), sigma)
    dense = torch.stack(
        [moved.entries(torch.full((2, 6), k), torch.arange(6).expand(2, 6)) for k in range(6)], 1
    )
    rows = moved.rows(torch.arange(6).expand(2, 6))
    torch.testing.assert_close(dense, rows, rtol=1e-12, atol=1e-14)
    data = [k for k in range(6) if k not in process.noise_tokens]
    off = rows[:, data][:, :, data] + torch.full((len(data),), torch.nan).diag()
    spread = off.flatten(1).nan_to_num(1.0).amin(1), off.flatten(1).nan_to_num(-1.0).amax(1)
    assert process.is_flat == bool(torch.allclose(*spread, rtol=1e-9, atol=0)) or process.reveals


def test_tokens_that_are_no_mask_add_nothing_and_no_gradient():
    diffusion = Diffusion(CLOSED["absorbing"])
    logits, x_0, _, t = case(diffusion)
    density = nelbo_density(Prediction(logits.log_softmax(-1)), diffusion, x_0, x_0, t)
    density.sum().backward()
    assert not density.any() and not logits.grad.any()


def test_closed_form_of_masks_makes_no_second_tensor_over_the_vocabulary():
    diffusion = Diffusion(CLOSED["absorbing"])
    logits, x_0, x_t, t = case(diffusion)
    prediction = Prediction(logits.detach().log_softmax(-1))
    with LargestTensor() as largest:
        nelbo_density(prediction, diffusion, x_0, x_t, t)
    assert largest.numel <= x_0.numel()
