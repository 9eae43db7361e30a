"""An objective with a discriminator of its own, as one file: made, trained, kept, resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import softplus
from training_runs import differing, digits, distilling, rows, stop_after, tiny, weights

from hf_ddistill.objectives import Frozen, Networks, Objective, Trained


class Critic(nn.Module):
    """log (p_data / p_student) of the token at each position, (B, L), by a table."""

    def __init__(self, student, diffusion):
        super().__init__()
        length = student.config.max_position_embeddings
        self.table = nn.Parameter(0.1 * torch.randn(length, diffusion.vocab_size))

    def forward(self, x):
        return self.table[torch.arange(x.shape[1]), x]


@dataclass(frozen=True)
class _Adversarial(Objective):
    """DiDi in small: a student of one call against a critic that tells its tokens from the data's,

    -(critic(x) - its mean) log p_S(x) for the student, the logistic loss for the critic.
    """

    networks: ClassVar[Networks] = {"critic": Trained(factory=Critic)}
    citation: ClassVar[str] = "None"

    def __call__(self, step):
        start = step.diffusion.prior(step.x_0.shape, step.generator)
        student = step.look(step.student, start, torch.ones(len(start), dtype=torch.float64))
        log_p = student.prediction.log_conditional[:, 0]
        x = step.draw(log_p.detach().exp(), student.where).view_as(start)
        critic, losses = step.peers["critic"], {}
        if "critic" in step.train:
            losses["critic"] = (softplus(-critic(step.x_0)) + softplus(critic(x))).mean()
        if "student" in step.train:
            with torch.no_grad():
                gain = critic(x)
            chosen = log_p.gather(-1, x.flatten()[:, None]).view_as(gain)
            losses["student"] = -((gain - gain.mean(0)) * chosen).mean()
        return losses


@dataclass(frozen=True)
class _Both(_Adversarial):
    """The same beside a teacher and a copy of the student that learns the data."""

    networks: ClassVar[Networks] = {
        "teacher": Frozen(),
        "critic": Trained(factory=Critic),
        "denoiser": Trained(copy_of="student"),
    }

    def __call__(self, step):
        losses = super().__call__(step)
        t = torch.full((len(step.x_0),), 0.5, dtype=torch.float64)
        local = step.look(step.peers["denoiser"], step.noised(t), t)
        losses["denoiser"] = -step.token_mean(local.log_prob_of(step.x_0))
        return losses


SETTINGS = {
    "learning_rate": 0.01,
    "auxiliary_learning_rate": 0.2,
    "auxiliary_beta1": 0.0,
    "auxiliary_updates": 2,
    "student_steps": 1,
    "lr_scheduler_type": "constant",
    "ema_decay": 0.0,
}
pytestmark = pytest.mark.filterwarnings("ignore:A student of one call")


def run(folder, objective=None, **settings):
    objective = _Adversarial() if objective is None else objective
    return distilling(folder, objective=objective, **SETTINGS | settings)


def distance(trainer):
    """Of the share of ink at each pixel, between the student's samples of one call and the data."""
    masks = torch.full((1, 64), trainer.diffusion.process.mask_token_id)
    ink = trainer.denoiser()(masks, 1.0).log_conditional[0, :, 1].exp()
    return float((ink.detach() - digits().train_tokens.double().mean(0)).abs().mean())


def test_student_comes_nearer_to_what_its_critic_calls_real(tmp_path):
    trainer = run(tmp_path, per_device_train_batch_size=64, max_steps=80)
    before = distance(trainer)
    trainer.train()
    assert distance(trainer) < 0.5 * before, (before, distance(trainer))


@pytest.mark.slow
def test_a_resumed_critic_is_bit_for_bit_that_of_a_run_in_one(tmp_path):
    whole = run(tmp_path / "whole", _Both(), max_steps=6)
    drawn = weights(whole.auxiliaries.models["critic"])
    whole.train()
    run(tmp_path / "part", _Both(), max_steps=6, callbacks=[stop_after(3)]).train()
    kept = load_file(tmp_path / "part" / "checkpoint-3" / "run_state.safetensors")
    assert "critic.table" in kept and any(name.startswith("denoiser.") for name in kept)
    torch.manual_seed(7)
    resumed = run(tmp_path / "part", _Both(), max_steps=6)
    # What a factory draws hangs on the seed of the run alone.
    assert not differing(drawn, weights(resumed.auxiliaries.models["critic"]))
    resumed.train(resume_from_checkpoint=True)
    for name in ("critic", "denoiser"):
        one, other = (each.auxiliaries.models[name] for each in (whole, resumed))
        assert not differing(weights(one), weights(other))
    assert not differing(weights(whole.model), weights(resumed.model))
    assert differing(drawn, weights(whole.auxiliaries.models["critic"]))


def test_each_of_several_trained_networks_has_its_loss_its_norm_and_the_settings(tmp_path):
    trainer = run(tmp_path, _Both(), max_steps=2, logging_steps=1, auxiliary_learning_rate=0.05)
    assert set(trainer.peers()) == {"teacher", "critic", "denoiser"}
    before = {name: weights(each) for name, each in trainer.auxiliaries.models.items()}
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name, model in trainer.auxiliaries.models.items():
        assert all({f"{name}_loss", f"{name}_grad_norm"} <= entry.keys() for entry in logged)
        assert differing(before[name], weights(model))
    # The student waits in the first of two steps.
    assert ["student_loss" in entry for entry in logged] == [False, True]
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == [0.01] * 2 + [0.05] * 4
    told = json.dumps(trainer.facts().training)
    assert "learning rate of the critic and denoiser" in told


def test_a_loss_through_a_frozen_critic_reaches_the_student_alone(tmp_path):
    trainer = run(tmp_path, max_steps=2)
    step = trainer.training_record(trainer.model, trainer.data_collator(rows(4)), 0, 0)
    seen = step.student(step.noised(torch.ones(4)), 1.0).log_conditional
    critic = step.peers["critic"]
    with step.freeze("critic") as same:
        assert same is critic and not critic.table.requires_grad
        loss = -(seen.exp() * critic.table).sum()
    assert critic.table.requires_grad
    (loss + critic(step.x_0).sum()).backward()
    counts = torch.zeros_like(critic.table)
    counts.index_put_((torch.arange(64).repeat(4), step.x_0.flatten()), torch.ones(256), True)
    assert torch.equal(critic.table.grad, counts)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainer.model.parameters())


def test_nothing_of_a_critic_is_in_what_is_saved_at_the_end(tmp_path):
    trainer = run(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    saved = load_file(tmp_path / "final" / "model.safetensors")
    assert saved.keys() <= tiny().state_dict().keys()


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ({"critic": Trained(factory=lambda student, diffusion: None)}, "must make an nn.Module"),
        ({"student": Trained(factory=Critic)}, "give it another name than student, teacher, ema"),
        ({"judge": Frozen()}, "needs judge, which DiscreteDistillationTrainer does not have"),
    ],
)
def test_a_network_that_cannot_be_had_is_refused(tmp_path, networks, words):
    objective = type("_Other", (_Adversarial,), {"networks": networks})()
    with pytest.raises(ValueError, match=words):
        run(tmp_path, objective)


def test_a_trained_network_is_a_copy_or_is_made_and_not_both():
    for given in ({}, {"copy_of": "teacher", "factory": Critic}):
        with pytest.raises(ValueError, match="one of the two"):
            Trained(**given)
    with pytest.raises(ValueError, match="copy_of must be one of teacher, student, got 'critic'"):
        Trained(copy_of="critic")
