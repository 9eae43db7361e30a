"""The laboratory's loop takes the Trainer's steps: same networks, batches and noise."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from block_models import MASK as BLOCK_MASK
from block_models import causal
from torch import nn
from training_runs import distilling, rows, tiny

from hf_ddistill import as_denoiser
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.couplings import Trajectory
from hf_ddistill.laboratory.fit import Batch, Pace, fit, make_peers, mean_of
from hf_ddistill.objectives import BD3LM, ECD, Frozen, LawMatching, Objective, Trained

STEPS, ROWS = 5, 8
SAME = {
    "max_steps": STEPS,
    "per_device_train_batch_size": ROWS,
    "learning_rate": 1e-2,
    "adam_beta1": 0.5,
    "adam_beta2": 0.99,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch",
    "ema_decay": 0.9,
    "auxiliary_lag": 0.0,  # the laboratory waits for no auxiliary
    "seed": 7,
}
#: Of what is trained beside the student, where something is.
BESIDE = {"auxiliary_learning_rate": 2e-2, "auxiliary_beta1": 0.5}
PACE = Pace(1e-2, 2e-2, betas=(0.5, 0.99), floor=1.0, ema=0.9)


@dataclass(frozen=True)
class _Adversarial(Objective):
    """A discriminator of one layer, made by a factory."""

    networks = {
        "teacher": Frozen(),
        "discriminator": Trained(factory=lambda network, diffusion: nn.Linear(3, 1)),
    }

    def __call__(self, step):
        x_t = step.noised(torch.full((len(step.x_0),), 0.5))
        p = step.student(x_t, 0.5).log_conditional.float().exp().square().mean((1, 2))
        told = step.peers["discriminator"]
        fake = told(p[:, None].expand(-1, 3)).mean()
        return {"student": -fake, "discriminator": told(p.detach()[:, None].expand(-1, 3)).mean()}


def trained_by_the_trainer(folder, objective, seen, **more):
    beside = BESIDE if objective.auxiliaries else {}
    trainer = distilling(folder, objective=objective, **SAME | beside | more)
    collate = trainer.data_collator

    def collated(features):
        batch = collate(features)
        seen.append(batch["input_ids"].clone())
        return batch

    trainer.data_collator = collated
    student = copy.deepcopy(trainer.model)
    trainer.train()
    return trainer, student


@pytest.mark.parametrize(
    "objective", [ECD(), LawMatching(), _Adversarial()], ids=["ecd", "law_matching", "adversarial"]
)
def test_the_laboratory_takes_other_steps_than_the_trainer(objective, tmp_path):
    seen = []
    trainer, student = trained_by_the_trainer(tmp_path, objective, seen, student_steps=2)
    student, teacher = as_denoiser(student.train()), as_denoiser(tiny().eval())
    start, mean = copy.deepcopy(student), mean_of(student)
    objective = objective.for_student(student)
    sources = {"teacher": teacher, "start": as_denoiser(tiny())}
    peers = make_peers(objective, student, mean, sources, seed=SAME["seed"])
    run = fit(
        objective,
        student,
        peers,
        lambda number: Batch(seen[number]),
        lambda number: number / STEPS,
        pace=PACE,
        mean=mean,
        student_steps=2,
        seed=SAME["seed"],
    )
    assert run.number == run.updates == STEPS
    (ours,), (averaged,) = student.networks(), mean.networks()
    moved = 0.0
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(ours.get_parameter(name), weight), name
        assert torch.equal(averaged.get_parameter(name), trainer.average.mean[name]), name
        before = start.networks()[0].get_parameter(name)
        moved += float((weight - before).abs().sum().detach())
    assert moved > 1


def test_blocks_take_other_steps_in_the_laboratory(tmp_path):
    seen, student_of = [], lambda: to_block_diffusion(causal(), mask_token_id=BLOCK_MASK)[0]
    generator = torch.Generator().manual_seed(0)
    data = [
        {"input_ids": row} for row in torch.randint(5, 20, (32, 8), generator=generator).tolist()
    ]
    trainer, student = trained_by_the_trainer(
        tmp_path, BD3LM(), seen, data=data, teacher=causal(), model=student_of(), max_length=8
    )
    student = as_denoiser(student.train())
    whole = Trajectory(torch.zeros(ROWS, 8, dtype=torch.int64), 4)
    fit(
        BD3LM(),
        student,
        {},
        lambda number: Batch(seen[number], whole),
        lambda number: number / STEPS,
        pace=PACE,
        seed=SAME["seed"],
    )
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(student.networks()[0].get_parameter(name), weight), name


def test_a_network_that_is_updated_has_no_loss():
    @dataclass(frozen=True)
    class _Silent(Objective):
        networks = {}

        def __call__(self, step):
            return {}

    x_0 = torch.tensor([row["input_ids"] for row in rows(4)])
    student = as_denoiser(tiny())
    with pytest.raises(ValueError, match="gives no loss for a network that is updated: student"):
        fit(_Silent(), student, {}, lambda number: Batch(x_0), lambda number: 1.0)
