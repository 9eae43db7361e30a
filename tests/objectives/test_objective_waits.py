"""How often a training objective waits for the device, on one that only records."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recording_device import RecordingDevice
from training_memory import blocks

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import Questions, asked_later
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.objectives import Objective
from hf_ddistill.objectives.lsd import Coefficients
from hf_ddistill.processes import Absorbing, Uniform

K, L, B = 12, 8, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
#: For each: the places where it waits, most of all to find the positions of a network call.
WAITS = {
    "nelbo": ({"type": "nelbo"}, Absorbing(K), 0, 1),
    "nelbo_uniform": ({"type": "nelbo"}, Uniform(K), 0, 1),
    "ecd": ({"type": "ecd"}, Absorbing(K), 0, 1),
    "ecd_adaptive": ({"type": "ecd", "times": "adaptive_times"}, Absorbing(K), 0, 1),
    "ecd_uniform": ({"type": "ecd"}, Uniform(K), 0, 1),
    # Two calls of the teacher, at what is left each time, and what is drawn between them.
    "sdtt": ({"type": "sdtt"}, Absorbing(K), 0, 4),
    "dcd": ({"type": "dcd", "times": "step_times"}, Uniform(K), 0, 1),
    "mcd": ({"type": "mcd"}, Absorbing(K), 0, 1),
    # The teacher's two calls, and two looks of the student.
    "redi": ({"type": "redi", "teacher_steps": 2, "looks": 2}, Uniform(K), 0, 4),
    # The student's look, three more of its mean, and what each of three steps draws.
    "fs_dfm": ({"type": "fs_dfm"}, Uniform(K), 2, 7),
    # The positions of all calls of the teacher, and those of the student.
    "imdm": ({"type": "imdm", "teacher_steps": 4}, Absorbing(K), 2, 2),
    # The student's positions now and later, and what the teacher's step reveals.
    "di4c": ({"type": "di4c", "components": 2}, Absorbing(K), 2, 3),
    "ecd_weighted": ({"type": "ecd", "weighting": "learned"}, Absorbing(K), 0, 1),
    # Two calls of the student and four of the teacher.
    "lsd": ({"type": "lsd", "teacher_steps": 4}, Absorbing(K), 0, 9),
    # A call before the last, the last, and the view.
    "law_matching": ({"type": "law_matching", "steps": "only"}, Absorbing(K), 2, 3),
    # The call, the view, and which of its positions the call drew.
    "d_mmd": ({"type": "distribution_matching"}, Absorbing(K), 2, 3),
    "simplex_dmd": ({"type": "simplex_dmd"}, Absorbing(K), 2, 3),
    "reinforce_dmd": ({"type": "reinforce_dmd"}, Absorbing(K), 2, 1),
    "representation_mmd": ({"type": "representation_mmd"}, Absorbing(K), 0, 1),
    # The student's positions, and those of all calls of the teacher.
    "reranked": ({"type": "reranked", "group": 2}, Absorbing(K), 0, 2),
    # Two calls, and what the first reveals.
    "didi": ({"type": "didi"}, Absorbing(K), 0, 3),
    # Calls before the last with gradients: their positions, and those that they reveal.
    "policy": ({"type": "law_matching", "steps": "only"}, Absorbing(K), 0, 4),
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
        peers = {"teacher": teacher, "auxiliary": auxiliary, "mean": student}
        peers["coefficients"] = Coefficients().to(recorder.device)
        for name, need in objective.networks.items():
            if getattr(need, "factory", None) is not None:
                peers[name] = need.build(name, models[0], diffusion, 0).to(recorder.device)
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


#: Where candidates are scored is one more.
OF_BLOCKS = dict.fromkeys(["opdlm", "bd3lm", "block_law_matching", "block_acceptance"], 1)
OF_BLOCKS |= dict.fromkeys(["causal_law_matching", "causal_law_matching_one"], 1)
OF_BLOCKS |= dict.fromkeys(["outcome_reward", "cdlm", "d2f_hints", "dparallel", "t3d"], 1)
OF_BLOCKS |= {"pseudo_trajectory": 1, "opdlm_posterior": 2}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "opdlm_posterior")) for n in OF_BLOCKS],
)
def test_objective_of_blocks_waits_once_whatever_its_number_of_calls(name):
    questions = Questions()
    with RecordingDevice() as recorder, asked_later(questions):
        objective, here = blocks(name, K)
        denoisers = [here.student, here.peers["teacher"], here.peers["auxiliary"]]
        for denoiser in denoisers:
            denoiser.networks()[0].to(recorder.device)
        path = here.trajectory
        rounds, log_prob = (x.to(recorder.device) for x in (path.rounds, path.log_prob))
        given = {"x_0": here.x_0.to(recorder.device), "reward": here.reward.to(recorder.device)}
        step = replace(here, **given, trajectory=Trajectory(rounds, path.block_size, log_prob))

        def work():
            losses = objective(step)
            torch.stack([loss.float() for loss in losses.values()]).sum().backward()

        work()  # constants are sent once
        recorder.clear()
        work()
        assert 0 < recorder.reads.total() <= OF_BLOCKS[name], recorder.report()
