"""How often a training objective waits for the device, on one that only records."""

from __future__ import annotations

import pytest
import torch
from recording_device import RecordingDevice

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import Questions, asked_later
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.objectives import Objective
from hf_ddistill.processes import Absorbing, Uniform

K, L, B = 12, 8, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
#: For each: the places where it waits, most of all to find the positions of a network call.
WAITS = {
    "nelbo": ({"type": "nelbo"}, Absorbing(K), 0, 1),
    "nelbo_uniform": ({"type": "nelbo"}, Uniform(K), 0, 1),
    # Positions of x_t, those that a step reveals, those that are left.
    "ecd": ({"type": "ecd"}, Absorbing(K), 0, 3),
    "ecd_adaptive": ({"type": "ecd", "times": "adaptive_times"}, Absorbing(K), 0, 3),
    "ecd_uniform": ({"type": "ecd"}, Uniform(K), 0, 1),
    # Where rows stop, a call before the last, the last, the view, and what both share.
    "law_matching": ({"type": "law_matching", "steps": "only"}, Absorbing(K), 2, 5),
    # Calls before the last with gradients: their positions, and those that they reveal.
    "policy": ({"type": "law_matching", "steps": "only"}, Absorbing(K), 0, 5),
}


@pytest.mark.parametrize("name", WAITS)
def test_objective_waits_for_positions_and_for_nothing_else(name):
    settings, process, noise, most = WAITS[name]
    with RecordingDevice() as recorder:
        models = []
        for dim in (noise, 0, 0):
            torch.manual_seed(0)
            config = DDiTConfig(vocab_size=K, max_position_embeddings=L, noise_dim=dim, **SIZES)
            models.append(DDiTForDiscreteDiffusion(config).to(recorder.device))
        diffusion, objective = Diffusion(process), Objective.from_config(settings)
        student, teacher, auxiliary = (as_denoiser(model, diffusion) for model in models)
        peers = {"teacher": teacher, "auxiliary": auxiliary}
        x_0 = torch.randint(0, K - 1, (B, L)).to(recorder.device)
        generator, questions = torch.Generator().manual_seed(0), Questions()

        def work():
            step = TrainingStep(x_0, diffusion, student, peers, 0.0, generator, student_steps=2)
            step.memory.of("law_matching").put("teacher_steps", torch.tensor(20))
            with asked_later(questions):
                losses = objective(step)
            torch.stack([loss.float() for loss in losses.values()]).sum().backward()

        work()  # constants are sent once
        recorder.clear()
        work()
        assert 0 < recorder.reads.total() <= most, recorder.report()
        assert questions.asked
        questions.answer()
