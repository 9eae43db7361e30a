"""What a training step takes at one time, in units of one float32 (B, L, K) tensor."""

from __future__ import annotations

import gc

import pytest
import torch
from vocabulary import PeakBytes

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.objectives import Objective
from hf_ddistill.processes import Absorbing, Uniform

# Of a vocabulary beside which the networks' own activations are a tenth of a unit.
K, L, B = 20_000, 64, 8
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
MOST = {
    "nelbo": (Absorbing(K), 0, 1, 2.0),
    "ecd": (Absorbing(K), 0, 1, 2.5),
    "law_matching": (Absorbing(K), 2, 4, 4.1),
    # All of x_0 in one call, and a view of more than half of it.
    "law_matching_in_one_call": (Absorbing(K), 2, 1, 4.7),
    "law_matching_policy": (Absorbing(K), 0, 4, 4.1),
    "nelbo_uniform": (Uniform(K), 0, 1, 4.2),
    "ecd_uniform": (Uniform(K), 0, 1, 4.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_step_takes_few_tensors_of_the_size_of_all_logits(name):
    process, noise, steps, most = MOST[name]
    objective = Objective.named(next(n for n in Objective.registry if name.startswith(n)))()
    models = []
    for dim in (noise, 0, 0):
        torch.manual_seed(0)
        config = DDiTConfig(vocab_size=K, max_position_embeddings=L, noise_dim=dim, **SIZES)
        models.append(DDiTForDiscreteDiffusion(config))
    models[1].eval().requires_grad_(False)
    student, teacher, auxiliary = (as_denoiser(model, Diffusion(process)) for model in models)
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(0, K - 1, (B, L), generator=generator)
    peers = {"teacher": teacher, "auxiliary": auxiliary}
    step = TrainingStep(x_0, student.diffusion, student, peers, 0.0, generator, student_steps=steps)
    gc.collect()
    with PeakBytes() as alive:
        losses = objective(step)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    units = alive.peak / (4 * B * L * K)
    print(f"{name}: {units:.2f}")  # shown with -rP
    assert 0.5 < units < most
